"""Which techniques would bring a model within its budgets on a target, and why not the others."""
