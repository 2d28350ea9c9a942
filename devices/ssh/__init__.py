"""Devices over SSH, by OpenSSH's own client."""
