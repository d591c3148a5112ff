"""Tests of the program on the device."""
