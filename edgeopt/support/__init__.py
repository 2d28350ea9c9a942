"""What knows nothing of models: files, caches, scratch folders, signals, progress, statistics."""
