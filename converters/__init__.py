"""One folder or file for each format, and what they share; interface.py says what a format must offer."""
