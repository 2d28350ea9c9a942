"""Few distinct values for each weight."""
