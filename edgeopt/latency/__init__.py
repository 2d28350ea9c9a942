"""Latency on a device of what is no artifact yet: modules, and the layers that an architecture search puts together."""
