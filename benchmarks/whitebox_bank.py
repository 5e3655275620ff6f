"""Concepts that were not told the truth: warmth and the like are hidden, and probes stand in their place.

The simulator's effects are among the numbers of the pixels, so that a model with them has little to find. Here these
three, and every number of the pixels that goes with one of them, are taken out of the features. What stands in their
place are probes: linear functions of what the CNN says, learnt on photos of other items, which never see the photos
that are judged. They are learnt on renderings, too: a probe that only saw photos as they are takes what goes with warm
photos for warmth, and does not move when a photo is made warmer.

Legend: n photos, F numbers in a feature, K concepts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from benchmarks.whitebox_rendering import FACTORS, Rendered
from crossmedia.concepts import CONCEPTS, Concept, ConceptCard
from crossmedia.imgserver.concepts.building import build_concepts
from crossmedia.imgserver.concepts.dictionary import random_codes
from crossmedia.imgserver.concepts.linear import Affine, Floats, Scale, explained, fit_probes, folds_of
from crossmedia.imgserver.concepts.sample import Sample
from crossmedia.imgserver.head import Head, fit_pca, linear_head
from crossmedia.imgserver.vision.photometry import ANCHORS

GOES_WITH = 0.5  # correlation from which on a number of the pixels is hidden, too


@dataclass(frozen=True)
class Bank:
    """A head over features, and what its numbers are."""

    head: Head
    card: ConceptCard

    def of(self, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Vectors, shape (n, K), of features, shape (n, F), rounded as a store does."""
        return self.head.apply_numpy(features).astype(np.float16).astype(np.float32)


def hidden_anchors(values: Floats) -> list[int]:
    """Which of ``ANCHORS`` go with one of the factors, these among them; of their values, shape (n, 12)."""
    known = [ANCHORS.index(name) for name in FACTORS]
    together = np.abs(np.corrcoef(values.T.astype(np.float64)))[:, known].max(axis=1)
    return [place for place in range(len(ANCHORS)) if together[place] > GOES_WITH]


def hidden_bank(sample: Sample, renderings: Rendered) -> Bank:
    """Concepts without the anchors that tell the truth; probes stand in their place.

    Args:
        sample: photos of the items that training sees, with the numbers of their pixels.
        renderings: of these photos.
    """
    hidden, width = hidden_anchors(sample.values[:, -len(ANCHORS) :]), sample.values.shape[1] - len(ANCHORS)
    probes, r2 = pixel_probes(sample, renderings, hidden)
    places = [width + place for place in hidden]
    values = sample.values.copy()
    values[:, places] = probes.of(values[:, :width])
    head, card = build_concepts(replace(sample, values=values))
    weight, bias = (of.detach().double().numpy() for of in (head.linear[0].weight, head.linear[0].bias))
    plain = weight.copy()
    plain[:, places] = 0
    plain[:, :width] += weight[:, places] @ probes.weight.T
    head = linear_head(CONCEPTS, plain, bias + weight[:, places] @ probes.bias, head.spec.rectified, head.backbone)
    told = dict(zip((ANCHORS[place] for place in hidden), r2.tolist(), strict=True))
    concepts = tuple(replace(c, r2=told[c.name]) if c.name in told else c for c in card.concepts)
    return Bank(head, replace(card, head=head.name, concepts=concepts))


def strict_bank(sample: Sample) -> Bank:
    """Concepts without these anchors, and without anything in their place: nobody ever named warmth."""
    values, hidden = sample.values.copy(), hidden_anchors(sample.values[:, -len(ANCHORS) :])
    values[:, [values.shape[1] - len(ANCHORS) + place for place in hidden]] = 0
    head, card = build_concepts(replace(sample, values=values))
    kept = [place for place, concept in enumerate(card.concepts) if concept.value not in _named(hidden, concept)]
    weight, bias = (of.detach().double().numpy()[kept] for of in (head.linear[0].weight, head.linear[0].bias))
    head = linear_head(CONCEPTS, weight, bias, head.spec.rectified, head.backbone)
    return Bank(head, replace(card, head=head.name, concepts=tuple(card.concepts[place] for place in kept)))


def _named(hidden: list[int], concept: Concept) -> set[str]:
    return {ANCHORS[place] for place in hidden} if concept.kind == "anchor" else set()


def pixel_probes(sample: Sample, renderings: Rendered, asked: list[int]) -> tuple[Affine, npt.NDArray[np.float64]]:
    """Some of ``ANCHORS`` as linear functions of what the CNN says, and R² of each on photos left out.

    Photos as they are count as much as half of their renderings do together, as many as show the whole photo.
    """
    width = sample.values.shape[1] - len(ANCHORS)
    place = np.searchsorted(sample.items.ids, renderings.photo)
    times = max(1, len(renderings.photo) // len(sample.items.ids) // 2)
    groups = np.concatenate([sample.items.groups[place], np.repeat(sample.items.groups, times)])
    features = np.concatenate([renderings.features, np.repeat(sample.values, times, axis=0)])
    scale, wanted = Scale.of(sample.values[:, :width]), Scale.of(sample.values[:, width:])
    found = fit_probes(scale(features[:, :width]), wanted(features[:, width:])[:, asked], folds_of(groups))
    own = slice(len(place), None, times)  # each photo once, as it is
    r2 = explained(found.left_out[own], wanted(sample.values[:, width:])[:, asked])
    deviation, mean = wanted.deviation[asked], wanted.mean[asked]
    weight = found.numbers.weight / scale.deviation[:, None] * deviation
    return Affine(weight, mean + found.numbers.bias * deviation - scale.mean @ weight), r2


def random_bank(sample: Sample, like: Bank, seed: int) -> Bank:
    """The control: random directions of what the CNN says, whitened and cut at 0, as many as there are concepts."""
    width, dim = sample.values.shape[1] - len(ANCHORS), like.head.spec.dim
    scale = Scale.of(sample.values[:, :width])
    numbers = random_codes(scale(sample.values[:, :width]), dim, seed).numbers
    over = np.maximum(numbers.of(scale(sample.values[:, :width])), 0)
    deviation = Scale.of(over).deviation
    weight = numbers.weight / scale.deviation[:, None] / deviation
    return _unnamed(sample, weight, numbers.bias / deviation - scale.mean @ weight, "random", rectified=dim)


def pca_bank(sample: Sample, like: Bank) -> Bank:
    """As many principal components of what the CNN says."""
    width = sample.values.shape[1] - len(ANCHORS)
    layer = fit_pca(sample.values[:, :width], like.head.spec.dim).linear[0]
    weight, bias = (of.detach().double().numpy() for of in (layer.weight, layer.bias))
    return _unnamed(sample, weight.T, bias, "component", rectified=0)


def _unnamed(
    sample: Sample, weight: npt.NDArray[np.float64], bias: npt.NDArray[np.float64], called: str, rectified: int
) -> Bank:
    """A head over whole features, which takes nothing of their anchors."""
    padded = np.concatenate([weight.T, np.zeros((weight.shape[1], len(ANCHORS)))], axis=1)
    head = linear_head(CONCEPTS, padded, bias, rectified, sample.features.name)
    concepts = tuple(Concept(f"{called} {number}", "free") for number in range(1, len(padded) + 1))
    return Bank(head, ConceptCard(head.name, sample.features.name, len(sample.items.ids), 1, concepts))
