"""What Mender's update modules and state scripts expect of whoever runs them, one noun a file.

Source: Mender's documents "Update Modules v3" and "State scripts", and the behaviour of its client
3.4.0. Nothing here knows the order of an install; that is `firmware_hooks.mender_module`'s.
"""
