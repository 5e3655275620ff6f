"""Work on a whole catalogue: precompute."""
