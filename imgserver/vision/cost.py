"""What a photo costs a machine on its way into the store, and how many photos a second the machine then embeds."""

from __future__ import annotations

import math
from dataclasses import dataclass

SMALL = 8  # cores


def decode_processes(cores: int) -> int:
    """Photos that a machine of so many cores decodes at once, unless it is told otherwise; see ``Machine``."""
    return max(cores - cores // 8, min(cores, SMALL) + 2)


@dataclass(frozen=True)
class EmbeddingCost:
    """What one photo takes, with every core of the machine at work.

    Attributes:
        decode_s: seconds of a core to decode it.
        cnn_s: seconds of a core for the CNN; 0 where GPUs compute.
        own_s: seconds of a core of the process between them: it reads photos, hands them over, writes what is made.
        gpu_images_s: images a second of the GPUs of one machine; 0 where cores compute.

    Example:
        >>> from crossmedia.imgserver.vision.cost import EmbeddingCost
        >>> cost = EmbeddingCost(decode_s=0.002, cnn_s=0.008, own_s=0.0)
        >>> round(cost.photos_per_s(cores=4))
        400
    """

    decode_s: float
    cnn_s: float
    own_s: float
    gpu_images_s: float = 0.0

    @property
    def core_s(self) -> float:
        """Seconds of a core in all."""
        return self.decode_s + self.cnn_s + self.own_s

    def limits(self, cores: int) -> dict[str, float]:
        """Photos a second that each part of one machine allows a run of ``precompute``.

        Decoding, the CNN and the process itself share the ``cores``. Beside that the processes that decode are so many,
        the GPUs so fast, and the process itself runs Python one thread at a time.
        """
        return {
            "cores": _rate(cores, self.core_s),
            "decoding": _rate(decode_processes(cores), self.decode_s),
            "GPU": self.gpu_images_s or math.inf,
            "process": _rate(1, self.own_s),
        }

    def photos_per_s(self, cores: int) -> float:
        """Photos a second of a machine with so many cores: what the narrowest part allows."""
        return min(self.limits(cores).values())

    def narrowest(self, cores: int) -> str:
        """The part that sets ``photos_per_s``, as ``limits`` names it."""
        limits = self.limits(cores)
        return min(limits, key=limits.__getitem__)


def _rate(many: int, seconds: float) -> float:
    return many / seconds if seconds else math.inf
