"""What a device is and how it is just now, and what of it makes figures doubtful."""
