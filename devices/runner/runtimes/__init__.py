"""The runtimes that may be found on a device, one file each; interface.py says what each must do."""
