"""Whole layers of a stack, taken out."""
