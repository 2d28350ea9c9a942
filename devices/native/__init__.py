"""Measuring with native tools where a device has no Python."""
