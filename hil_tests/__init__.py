"""Tests that need a rig: a bench with a device, emulated or real."""
