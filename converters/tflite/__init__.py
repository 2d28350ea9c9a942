"""TFLite, by litert-torch."""
