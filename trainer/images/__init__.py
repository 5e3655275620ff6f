"""Vectors of images for a model: none, stored ones, or those of a head that learns."""
