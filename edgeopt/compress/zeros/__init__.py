"""Zeros among the weights: by magnitude, as lottery tickets, in N:M patterns, and the proof that they are there."""
