"""CTR models, one file each, one signature: ``forward(batch, image_vectors) -> logits``."""

from trainer.models.din import DIN
from trainer.models.embedding_mlp import EmbeddingMLP

MODELS: dict[str, type[EmbeddingMLP] | type[DIN]] = {"embedding_mlp": EmbeddingMLP, "din": DIN}

__all__ = ["DIN", "MODELS", "EmbeddingMLP"]
