"""Tests of Fieldfare; the folders mirror the rooms."""
