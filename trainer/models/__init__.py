"""CTR models, one file each, one signature: ``forward(batch, vectors) -> logits``."""

from crossmedia.trainer.models.registry import MODELS, make, model_class, options_of, unknown_option

__all__ = ["MODELS", "make", "model_class", "options_of", "unknown_option"]
