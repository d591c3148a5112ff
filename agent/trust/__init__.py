"""What this device believes: signed metadata from any source, verified in a process of its own."""
