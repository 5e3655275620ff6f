"""What a training step is made of, beside the model."""
