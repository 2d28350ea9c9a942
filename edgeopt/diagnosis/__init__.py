"""Where INT8 loses accuracy: what each layer's weights and values cost what leaves the model, why, and what can be done."""
