"""Which parts of a network hang together (channels, heads, layers), how much each matters, and how it is taken out."""
