"""Devices over SSH and ADB, and this computer: transport.py says what a kind of device must do."""
