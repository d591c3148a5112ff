"""What device and hub must agree on."""
