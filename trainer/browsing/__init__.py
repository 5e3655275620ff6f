"""Runs and impressions as tabs of ``crossmedia browse``, and what samples know of images as colours of its map."""
