"""Android devices, by ADB."""
