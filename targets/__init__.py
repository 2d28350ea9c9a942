"""One TOML file for each target, their schema, and their loader."""
