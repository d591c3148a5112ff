"""Mender artifacts, version 3: reading, checking, writing them, and releases made of them.

Source: Mender's document "Artifact format v3" and its program `mender-artifact` 3.9.
"""
