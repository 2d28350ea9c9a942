"""Attention heads: how much each matters, and how they are taken out."""
