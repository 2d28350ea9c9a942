"""The folder that an export leaves: written whole or not at all, read back with every digest checked."""
