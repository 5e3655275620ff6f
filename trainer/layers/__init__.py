"""Layers that the models share. Legend: B rows, N history entries of the batch, K unique images, D numbers a vector."""
