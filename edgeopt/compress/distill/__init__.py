"""Knowledge distillation: what a student learns from its teacher, and the students cut from it."""
