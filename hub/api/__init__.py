"""The hub's HTTP API: addresses, what they take, and how they answer.

Owns HTTP and nothing else; every answer comes from `hub.operations`.
"""
