"""A network as stages with exits between them."""
