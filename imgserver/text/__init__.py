"""Texts as vectors: read, encoded, and what encoders there are."""
