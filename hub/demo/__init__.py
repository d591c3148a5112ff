"""The demo: a hub and six agents as real processes, and faults made on purpose.

Owns what is done to the devices, and the comparison of that with what the hub reports. The programs
it runs are the ones that are shipped, unchanged.
"""
