"""Structured channel pruning."""
