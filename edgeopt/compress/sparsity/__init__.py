"""Zeros: which weights may have them, which ones lose least, and the proof that they are there."""
