"""What the planner knows of a model, tries on copies, and refuses."""
