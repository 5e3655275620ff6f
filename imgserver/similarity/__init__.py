"""Vectors that are near each other: the index, who is like whom, duplicates, semantic ids."""
