"""Vectors for the batches of any training loop in PyTorch.

columns     what a batch's columns of ids are, and the ids in them
vectors     ``with_vectors``: the batches of a loader, with vectors that were fetched ahead
"""

from crossmedia.torch.columns import Ids
from crossmedia.torch.vectors import VectorLoader, with_vectors
from crossmedia.trainer.images.image_head import ImageHead

__all__ = ["Ids", "ImageHead", "VectorLoader", "with_vectors"]
