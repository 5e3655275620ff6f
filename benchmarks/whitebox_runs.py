"""Runs of the white box and of its rivals, and what the white box says of the test rows.

Legend: R test rows, T terms, C concepts.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.whitebox_bank import Bank
from benchmarks.worth import RECIPES
from crossmedia.concepts import has_concepts
from crossmedia.features.reading.samples import Samples
from crossmedia.imgserver import open_local
from crossmedia.imgserver.client import ImageClient, MockTransport
from crossmedia.trainer.export.exported import Exported, export_model
from crossmedia.trainer.feed import Fed
from crossmedia.trainer.fit import FitConfig, fit
from crossmedia.trainer.images.image_head import StoredVectors
from crossmedia.trainer.images.spaces import Spaces
from crossmedia.trainer.layers.additive import BIAS, MISSING, SELLS, TASTE
from crossmedia.trainer.reasons.contributions import Contributions, additive, contributions
from crossmedia.trainer.reasons.what_if import Effects, effects
from crossmedia.trainer.runs.checkpoint import load_cards, load_model

RECIPE = {images: {**recipe, "averaging": True} for images, recipe in RECIPES["grocery"].items()}  # as fit by default
SPACE = "image"
ROWS = 512
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Variant:
    """A model, and the vectors that it takes: those of a transport; None: ids only."""

    model: str
    transport: MockTransport | None


@dataclass(frozen=True)
class Explained:
    """What a run of ``concepts`` says of the test rows.

    Attributes:
        contributions: batch by batch.
        effects: what concepts add, and what more of each would add, batch by batch.
        error, exported_error: how far the sums are from the logits of the model, and of the exported file.
    """

    contributions: list[Contributions]
    effects: list[Effects]
    error: float
    exported_error: float

    @property
    def picture(self) -> Floats:
        """What the photo adds to the logit of each row, shape (R,), but for behaviours."""
        kinds = np.array([term.kind in (SELLS, TASTE, MISSING) for term in self.contributions[0].terms])
        return np.concatenate([one.values[:, kinds].sum(axis=1) for one in self.contributions]).astype(np.float64)

    @property
    def slopes(self) -> Floats:
        """What one more of each concept adds to each row, but for behaviours, shape (R, C)."""
        return np.concatenate([one.more[:, :2].sum(axis=1) for one in self.effects]).astype(np.float64)


def in_memory(store: str, version: str = "") -> MockTransport:
    """The vectors of a store and their names, so that photos can be exchanged."""
    with ImageClient(open_local(store)) as client:
        client.version = version or client.info().version
        wanted = np.arange(2000)
        found = client.get(wanted)
        card = client.concepts() if has_concepts(client.version) else None
        vectors = {int(i): found.values[i] for i in wanted if found.ok[i]}
        return MockTransport(vectors, version=client.version, card=card)


def of_bank(bank: Bank, photos: npt.NDArray[np.int64], features: npt.NDArray[np.float32]) -> MockTransport:
    """The vectors that a bank makes of the features of photos."""
    vectors = dict(zip(photos.tolist(), bank.of(features), strict=True))
    return MockTransport(vectors, version=bank.head.version(bank.card.features), card=bank.card)


def shuffled(of: MockTransport, seed: int) -> MockTransport:
    """The same with each photo's vector at another photo."""
    ids = list(of.vectors)
    others = np.random.default_rng(seed).permutation(ids)
    vectors = {image_id: of.vectors[int(other)] for image_id, other in zip(ids, others, strict=True)}
    return MockTransport(vectors, version=of.version, card=of.card)


def run(name: str, variant: Variant, seed: int, samples: Path, out: Path, quick: bool) -> dict[str, Any]:
    """What ``fit`` returns of one run; one that ended there before is not repeated."""
    images = variant.transport is not None
    folder = out / f"{name.replace(' ', '-').replace(',', '')}-{seed}"
    settings = RECIPE[images] | ({"epochs": 2} if quick else {})
    config = FitConfig(str(samples), str(folder), model=variant.model, images=images, seed=seed, **settings)
    return fit(config, variant.transport)


def explained(out: Path, transport: MockTransport, samples: Samples) -> Explained:
    """Contributions of every test row, and how far their sums are from what model and exported file say."""
    model, cards = load_model(out)[0], load_cards(out)
    exported = Exported(export_model(out, samples, out / "model.pt2"))
    found, more, error, of_exported = [], [], 0.0, 0.0
    spaces = Spaces({SPACE: StoredVectors(ImageClient(transport))})
    for batch in samples.batches("test", ROWS):
        fed = Fed.of(batch, torch.device("cpu"))
        with torch.inference_mode():
            vectors = fed.vectors(spaces)
            logits = model(fed.tensors, vectors)[:, 0].numpy()
            odds = exported.probabilities(fed.tensors, vectors)[:, 0].double().numpy()
        one = contributions(model, fed.tensors, vectors, cards)
        error = max(error, float(np.abs(one.logits - logits).max()))
        of_exported = max(of_exported, float(np.abs(one.logits - np.log(odds / (1 - odds))).max()))
        found.append(one)
        more.append(effects(additive(model), fed.tensors, vectors))
    return Explained(found, more, error, of_exported)


def top_terms(found: Explained, count: int = 3) -> list[set[str]]:
    """The largest terms of each row."""
    return [
        {one.names[place] for place in one.strongest(row, count)}
        for one in found.contributions
        for row in range(len(one.values))
    ]


def jaccard(runs: list[list[set[str]]]) -> float:
    """Mean over rows and pairs of seeds."""
    pairs = [len(a & b) / len(a | b) for one, other in combinations(runs, 2) for a, b in zip(one, other, strict=True)]
    return float(np.mean(pairs)) if pairs else float("nan")


def nameless_share(found: Explained) -> float:
    """How much of what concepts add, in absolute size, is of rest and of concepts without a name."""
    first = found.contributions[0]
    size = np.mean([np.abs(one.values).mean(axis=0) for one in found.contributions], axis=0)
    of_concepts = np.array([c is not None and t.kind != BIAS for c, t in zip(first.concepts, first.terms, strict=True)])
    nameless = np.array([c is not None and not c.named for c in first.concepts])
    return float(size[nameless].sum() / size[of_concepts].sum())
