"""What installs firmware: one contract, one installer a file."""
