"""Tests of the installers and their contract."""
