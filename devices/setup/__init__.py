"""The runtimes, put on a device that needs no internet."""
