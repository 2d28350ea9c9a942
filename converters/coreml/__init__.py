"""Core ML programs, by coremltools."""
