"""Aligning a head with behaviour: which vectors should be near each other, by what users did."""
