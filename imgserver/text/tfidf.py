"""The encoder that needs no download: weighted character n-grams of a catalogue's own texts, in few numbers.

Each n-gram counts by how rare it is (TF-IDF), and a truncated SVD of the catalogue's texts keeps the directions that
tell most of them apart (latent semantic analysis: Deerwester et al., 1990). A fitted encoder is three arrays:

    hashes      uint64, shape (V,), ascending     the n-grams that it knows
    weights     float32, shape (V,)               their inverse document frequency
    directions  float16, shape (V, F)             what each adds to the feature

and one of the texts that it was fitted on, which it can therefore encode, for the server's own check.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save
from scipy import sparse

from crossmedia.errors import BadInput
from crossmedia.imgserver.text.ngrams import RULE, ngrams
from crossmedia.version import hashed

FIT_TEXTS = 20_000  # of which it is fitted; of more, those are chosen by chance
MOST_NGRAMS = 1 << 15
DIM = 128
EXTRA, ROUNDS = 16, 2  # of the randomised SVD: Halko, Martinsson, Tropp (2011)
NAME = "text:tfidf"
MOST_SHOWN = 1000  # characters
SHAPES = {"hashes": ("uint64", 1), "weights": ("float32", 1), "directions": ("float16", 2)}

Features = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Tfidf:
    """A fitted encoder; the module says what its arrays are."""

    hashes: npt.NDArray[np.uint64]
    weights: npt.NDArray[np.float32]
    directions: npt.NDArray[np.float16]
    example: str

    @property
    def dim(self) -> int:
        """F, numbers in a feature."""
        return int(self.directions.shape[1])

    @cached_property
    def digest(self) -> str:
        """SHA-256 of its arrays and of how n-grams are made, in hexadecimal digits."""
        sha = hashlib.sha256(RULE.encode())
        for array in (self.hashes, self.weights, self.directions):
            sha.update(f"{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
        return sha.hexdigest()

    @cached_property
    def version(self) -> str:
        """``text:tfidf@<12 hex of the digest>``: the backbone's part of a version."""
        return hashed(NAME, self.digest)

    @cached_property
    def _matrix(self) -> Features:
        return self.directions.astype(np.float32)

    def encode(self, texts: Sequence[str]) -> Features:
        """Features of length 1, shape (n, F); NaN for a text that has no n-gram which the encoder knows."""
        found = _lengthened(_weighted(texts, self.hashes, self.weights) @ self._matrix)
        return found

    def to_bytes(self) -> bytes:
        """Its file: arrays, and no code."""
        data: bytes = save(
            {name: np.ascontiguousarray(getattr(self, name)) for name in SHAPES}, {"example": self.example}
        )
        return data

    @classmethod
    def from_bytes(cls, data: bytes) -> Tfidf:
        """Read what ``to_bytes`` wrote.

        Raises:
            BadInput: it is something else, or damaged.
        """
        try:
            arrays, example = load(data), _example(data)
        except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadInput(f"This is no TF-IDF encoder: {str(error)[:200]}.") from error
        if set(arrays) != set(SHAPES) or any(
            (array.dtype.name, array.ndim) != SHAPES[name] or len(array) != len(arrays["hashes"])
            for name, array in arrays.items()
        ):
            raise BadInput(f"This is no TF-IDF encoder: it holds {_described(arrays)}.")
        known, weights, directions = arrays["hashes"], arrays["weights"], arrays["directions"]
        whole = len(known) and directions.shape[1] and (known[1:] > known[:-1]).all()
        if not (whole and np.isfinite(directions).all() and np.isfinite(weights).all() and (weights > 0).all()):
            raise BadInput("This TF-IDF encoder is damaged: numbers are out of order, or not finite.")
        return cls(known, weights, directions, example)

    @classmethod
    def fit(cls, texts: Sequence[str], seed: int = 0) -> Tfidf:
        """The encoder of some texts; the same texts in the same order give the same encoder.

        Args:
            texts: of a catalogue, or of a sample of it, each once where the same are there often.
            seed: of the randomised SVD.

        Raises:
            BadInput: there is no text with two characters.
        """
        rows, values = ngrams(texts)
        known, place, often = _distinct(rows, values)
        if not len(known):
            raise BadInput("No text has two characters, so there is nothing to fit an encoder on.")
        if len(known) > MOST_NGRAMS:
            kept = np.sort(np.lexsort((known, -often))[:MOST_NGRAMS])  # those that most texts have
            known, often = known[kept], often[kept]
        del rows, values, place
        weights = (np.log((1 + len(texts)) / (1 + often)) + 1).astype(np.float32)
        matrix = _weighted(texts, known, weights)
        example = texts[int(np.argmax(matrix.getnnz(axis=1)))][:MOST_SHOWN]
        return cls(known, weights, _directions(matrix, seed).astype(np.float16), example)


def _example(data: bytes) -> str:
    """The text in the header of a file that ``load`` could read."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return str(header["__metadata__"]["example"])


def _described(arrays: dict[str, Any]) -> str:
    return (
        ", ".join(f"{name[:40]} {array.dtype} {array.shape}" for name, array in list(arrays.items())[:5]) or "nothing"
    )


def _distinct(
    rows: npt.NDArray[np.int64], values: npt.NDArray[np.uint64]
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Different n-grams, ascending, shape (V,); which each is, shape (m,); how many texts have it, shape (V,)."""
    known, place = np.unique(values, return_inverse=True)
    pairs = np.unique(rows * len(known) + place)
    return known, place, np.bincount(pairs % len(known), minlength=len(known)) if len(known) else pairs


def _weighted(texts: Sequence[str], known: npt.NDArray[np.uint64], weights: npt.NDArray[np.float32]) -> Any:
    """Texts as rows of length 1, sparse, shape (n, V): (1 + ln of how often) * weight of each known n-gram."""
    rows, values = ngrams(texts)
    place = np.minimum(np.searchsorted(known, values), len(known) - 1)
    there = known[place] == values
    pairs, often = np.unique(rows[there] * len(known) + place[there], return_counts=True)
    row, column = np.divmod(pairs, len(known))
    numbers = (1 + np.log(often)).astype(np.float32) * weights[column]
    lengths = np.sqrt(np.bincount(row, numbers**2, minlength=len(texts))).astype(np.float32)
    shape = len(texts), len(known)
    return sparse.csr_matrix((numbers / lengths[row], (row, column)), shape)


def _directions(matrix: Any, seed: int) -> Features:
    """The right singular vectors of the largest singular values, shape (V, F), with signs that are not by chance."""
    dim = min(DIM, *matrix.shape)
    size = min(dim + EXTRA, *matrix.shape)
    start = np.random.default_rng(seed).standard_normal((matrix.shape[1], size), dtype=np.float32)
    found = np.linalg.qr(matrix @ start)[0]
    for _ in range(ROUNDS):
        found = np.linalg.qr(matrix @ np.linalg.qr(matrix.T @ found)[0])[0]
    right = np.linalg.svd((matrix.T @ found).T, full_matrices=False)[2][:dim].T
    largest = right[np.abs(right).argmax(axis=0), np.arange(dim)]
    directions: Features = right * np.where(largest < 0, np.float32(-1), np.float32(1))
    return directions


def _lengthened(values: Any) -> Features:
    """Rows as of length 1; NaN where there is nothing."""
    length = np.linalg.norm(values, axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Features = (values / np.where(length > 1e-6, length, np.nan)).astype(np.float32)
    return found
