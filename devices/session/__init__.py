"""A device for oneself: its folder, its lock, its runs, and the end of what was started there."""
