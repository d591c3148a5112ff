"""The program on the device: installs releases, works offline and records what happened."""
