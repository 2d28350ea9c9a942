"""What the user hands in: the model, its data and settings, references to their code, and programs that others saved."""
