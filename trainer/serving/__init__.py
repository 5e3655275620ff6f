"""Scores online: models behind the Open Inference Protocol, with vectors from image servers."""
