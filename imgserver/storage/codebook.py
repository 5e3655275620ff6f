"""Product quantisation: a vector as a few bytes, each the number of the nearest of 256 centres.

A byte stands for every M-th number of the vector, M being the bytes of one: a PCA puts the numbers that vary most
first, and so each byte gets its share of them. The codebook is part of the version, and never changes.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from crossmedia.errors import BadInput
from crossmedia.imgserver.storage.records import VALUE_DTYPE
from crossmedia.version import hashed

CENTRES = 256  # what a byte tells apart

Codes = npt.NDArray[np.uint8]
Vectors = npt.NDArray[np.float16]


class Codebook:
    """Turns vectors of D numbers into M bytes, and back into the nearest that the codebook knows.

    Encoding takes the vector as it would be stored, in float16, and each one by itself: the same vector has the same
    code whether it is computed alone or among thousands.

    Args:
        centres: shape (M, 256, D / M): byte m stands for the numbers m, m + M, m + 2M, …

    Raises:
        BadInput: they are of another shape.
    """

    def __init__(self, centres: npt.NDArray[Any]):
        if centres.ndim != 3 or centres.shape[1] != CENTRES or not centres.size:
            raise BadInput(f"A codebook has the shape (bytes, {CENTRES}, numbers a byte), and not {centres.shape}.")
        self.centres = np.ascontiguousarray(centres, dtype=VALUE_DTYPE)
        self._by_number = np.ascontiguousarray(self.centres.transpose(0, 2, 1), dtype=np.float32)

    @property
    def code_bytes(self) -> int:
        """Bytes of a code."""
        return len(self.centres)

    @property
    def dim(self) -> int:
        """Numbers in a vector."""
        return len(self.centres) * len(self.centres[0, 0])

    @property
    def name(self) -> str:
        """``pq<bytes>@<12 hex of sha256(shape, centres)>``: part of the version."""
        sha = hashlib.sha256(repr(self.centres.shape).encode() + self.centres.tobytes())
        return hashed(f"pq{self.code_bytes}", sha.hexdigest())

    def encode(self, vectors: npt.NDArray[Any]) -> Codes:
        """Codes, shape (n, M), of vectors, shape (n, D)."""
        from crossmedia.imgserver.storage.compiled.codebook import encode

        out = np.empty((len(vectors), self.code_bytes), dtype=np.uint8)
        stored = np.asarray(vectors, dtype=VALUE_DTYPE)
        encode(self._by_number, np.ascontiguousarray(stored, dtype=np.float32), out)
        return out

    def decode(self, codes: Codes) -> Vectors:
        """Vectors, shape (n, D), of codes, shape (n, M)."""
        from crossmedia.imgserver.storage.compiled.codebook import decode

        out = np.empty((len(codes), self.dim), dtype=VALUE_DTYPE)
        # As whole numbers of 16 bits: numba moves them, and need not know what they mean.
        decode(self.centres.view(np.uint16), codes, out.view(np.uint16))
        return out

    def to_bytes(self) -> bytes:
        """The centres as one safetensors block."""
        return save({"centres": self.centres})

    @classmethod
    def from_bytes(cls, data: bytes) -> Codebook:
        """Read what ``to_bytes`` wrote.

        Raises:
            BadInput: the block is no codebook.
        """
        try:
            return cls(load(data)["centres"])
        except (KeyError, ValueError, SafetensorError) as error:
            raise BadInput(f"This is no codebook that 'imgserver compress' saved: {error}.") from error
