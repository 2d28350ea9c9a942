"""What the word ok means: outputs compared part by part, limits, verdicts."""
