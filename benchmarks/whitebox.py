"""Is the white box exact, does it find what is known to sell, and what does it cost beside DIN?

    python -m benchmarks.whitebox --samples samples --store store --truth truth.json --frozen old-store

On the clicks that ``examples/grocery/simulate.py --plain`` draws, whose effects are known. ``--store`` has vectors of
``imgserver concepts build`` with photometric anchors, ``--frozen`` those of the default head, and ``--hidden`` concepts
that were built without anchors. All variants are trained with the same seeds and the recipe of ``benchmarks.worth``.

With the simulator's statistics among the anchors, the effects are a check of the plumbing and no result. What counts is
``--hidden``: the correlation of the picture's part with the true effect on photos that training never saw. ``shuffled
photos`` must fail. Deletion tests are left out: in a sum they are passed by construction.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.parts import finish
from benchmarks.worth import RECIPES
from crossmedia.features.columns import ITEM
from crossmedia.features.reading.samples import Samples
from crossmedia.imgserver import open_local
from crossmedia.imgserver.client import ImageClient, MockTransport
from crossmedia.trainer.export.exported import Exported, export_model
from crossmedia.trainer.feed import Fed
from crossmedia.trainer.fit import FitConfig, fit
from crossmedia.trainer.images.image_head import StoredVectors
from crossmedia.trainer.images.spaces import Spaces
from crossmedia.trainer.layers.additive import BIAS, MISSING, SELLS, TASTE
from crossmedia.trainer.reasons.contributions import Contributions, contributions
from crossmedia.trainer.runs.checkpoint import load_cards, load_model

KNOWN = ("warmth", "brightness", "greenness")  # what the simulator's users see, in the order of ``effects.taste``
RECIPE = RECIPES["grocery"]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Variant:
    """A model, and the vectors that it takes: those of a transport; None: ids only."""

    model: str
    transport: MockTransport | None


@dataclass(frozen=True)
class Explained:
    """What a run of ``concepts`` says of the test rows."""

    contributions: list[Contributions]
    items: npt.NDArray[np.int64]
    error: float
    exported_error: float


def in_memory(store: str, version: str = "") -> MockTransport:
    """The vectors of a store and their names, so that photos can be exchanged."""
    with ImageClient(open_local(store)) as client:
        client.version = version or client.info().version
        wanted = np.arange(2000)
        found = client.get(wanted)
        card = client.concepts() if "+concepts@" in client.version else None
        vectors = {int(i): found.values[i] for i in wanted if found.ok[i]}
        return MockTransport(vectors, version=client.version, card=card)


def shuffled(of: MockTransport, seed: int) -> MockTransport:
    """The same with each photo's vector at another photo."""
    ids = list(of.vectors)
    others = np.random.default_rng(seed).permutation(ids)
    vectors = {image_id: of.vectors[int(other)] for image_id, other in zip(ids, others, strict=True)}
    return MockTransport(vectors, version=of.version, card=of.card)


def variants(arguments: argparse.Namespace) -> dict[str, Variant]:
    """What is trained."""
    concepts = in_memory(arguments.store, arguments.version)
    found = {
        "concepts": Variant("concepts", concepts),
        "concepts, ids only": Variant("concepts", None),
        "concepts, shuffled photos": Variant("concepts", shuffled(concepts, 7)),
        "DIN, ids only": Variant("din", None),
        "DIN, concepts": Variant("din", concepts),
    }
    if arguments.frozen:
        found["DIN, frozen vectors"] = Variant("din", in_memory(arguments.frozen))
    if arguments.hidden:
        found["concepts, hidden anchors"] = Variant("concepts", in_memory(arguments.hidden, arguments.hidden_version))
    return found


def run(name: str, variant: Variant, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """One run: AUC of all rows and of unseen items."""
    images = variant.transport is not None
    out = Path(arguments.out) / f"{name.replace(' ', '-').replace(',', '')}-{seed}"
    settings = RECIPE[images] | ({"epochs": 2} if arguments.quick else {})
    config = FitConfig(str(arguments.samples), str(out), model=variant.model, images=images, seed=seed, **settings)
    result = fit(config, variant.transport)
    return {"out": out, **{part: result["test"][part]["auc"] for part in ("all", "unseen_items")}}


def explained(out: Path, transport: MockTransport, samples: Samples) -> Explained:
    """Contributions of every test row, and how far their sums are from what model and exported file say."""
    model, cards = load_model(out)[0], load_cards(out)
    exported = Exported(export_model(out, samples, out / "model.pt2"))
    found, items, error, of_exported = [], [], 0.0, 0.0
    spaces = Spaces({"image": StoredVectors(ImageClient(transport))})
    for batch in samples.batches("test", 512):
        fed = Fed.of(batch, torch.device("cpu"))
        with torch.inference_mode():
            vectors = fed.vectors(spaces)
            logits = model(fed.tensors, vectors)[:, 0].numpy()
            odds = exported.probabilities(fed.tensors, vectors)[:, 0].double().numpy()
        one = contributions(model, fed.tensors, vectors, cards)
        error = max(error, float(np.abs(one.logits - logits).max()))
        of_exported = max(of_exported, float(np.abs(one.logits - np.log(odds / (1 - odds))).max()))
        found.append(one)
        items.append(batch.items.ids[ITEM][batch.target])
    return Explained(found, np.concatenate(items), error, of_exported)


def of_picture(found: Explained) -> Floats:
    """What the photo adds to the logit of each row, shape (rows,), but for behaviours."""
    first = found.contributions[0]
    kinds = np.array([term.kind in (SELLS, TASTE, MISSING) for term in first.terms])
    return np.concatenate([one.values[:, kinds].sum(axis=1) for one in found.contributions]).astype(np.float64)


def effects(found: Explained) -> dict[str, float]:
    """What a standard deviation of each anchor adds to the logit, by name: the slope of its terms on its amount."""
    first = found.contributions[0]
    values = np.concatenate([one.values for one in found.contributions]).astype(np.float64)
    amounts = np.concatenate([one.amounts for one in found.contributions]).astype(np.float64)
    terms: dict[str, list[int]] = defaultdict(list)
    for place, (term, concept) in enumerate(zip(first.terms, first.concepts, strict=True)):
        if concept is not None and concept.kind == "anchor" and term.kind in (SELLS, TASTE):
            terms[concept.name].append(place)
    return {
        name: float((values[:, own].sum(axis=1) @ amounts[:, own[0]]) / (amounts[:, own[0]] ** 2).sum())
        for name, own in terms.items()
    }


def correlation(picture: Floats, truth: Floats, late: npt.NDArray[np.bool_], items: npt.NDArray[Any]) -> float:
    """Between the picture's part and the true one, over the photos that training never saw, each counted once."""
    of_items = defaultdict(list)
    for item, own, true in zip(items[late].tolist(), picture[late], truth[late], strict=True):
        of_items[item].append((own, true))
    means = np.array([np.mean(pairs, axis=0) for pairs in of_items.values()])
    return float(np.corrcoef(means.T)[0, 1])


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


def true_parts(arguments: argparse.Namespace, samples: Samples, of: MockTransport) -> tuple[Floats, set[str]]:
    """The true effect of each test row's photo, common to all tastes, and the items that were launched late."""
    truth = json.loads(Path(arguments.truth).read_text())
    taste = np.mean(truth["effects"]["taste"], axis=0)
    assert of.card is not None
    places = [of.card.place(name) for name in KNOWN]
    of_photos = {image_id: float(vector[places] @ taste) for image_id, vector in of.vectors.items()}
    parts = []
    for batch in samples.batches("test", 512):
        keys = batch.items.vectors["image"]
        own = np.array(
            [np.mean([of_photos.get(int(keys.unique[k]), 0.0) for k in row] or [0.0]) for row in rows_of(keys)]
        )
        parts.append(own[batch.target])
    return np.concatenate(parts), {str(item) for item in truth["late_items"]}


def rows_of(keys: Any) -> Iterator[npt.NDArray[np.int64]]:
    """Indices of the keys of each item."""
    for first, last in zip(keys.of_items.offsets[:-1], keys.of_items.offsets[1:], strict=True):
        yield keys.of_items.values[first:last]


def main() -> None:
    """Train, explain, compare."""
    parser = argparse.ArgumentParser(description="The white box: exact, right, and what it costs.")
    parser.add_argument("--samples", type=Path, required=True)
    parser.add_argument("--store", required=True, help="with a version of concepts")
    parser.add_argument("--version", default="", help="of the concepts; the active one when it is not given")
    parser.add_argument("--frozen", default="", help="store with vectors of the default head")
    parser.add_argument("--hidden", default="", help="store with concepts that were built without anchors")
    parser.add_argument("--hidden-version", default="")
    parser.add_argument("--truth", required=True, help="truth.json of the simulator")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", default="", help="folder of the runs; a temporary one when it is not given")
    parser.add_argument("--quick", action="store_true", help="one seed, two epochs")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.seeds = 1
    with tempfile.TemporaryDirectory() as folder:
        arguments.out = arguments.out or folder
        measure(arguments)


def measure(arguments: argparse.Namespace) -> None:
    """All runs, the table, and the last line."""
    samples, plans, console = Samples(arguments.samples), variants(arguments), Console(width=120)
    of = plans["concepts"].transport
    assert of is not None
    truth, late_items = true_parts(arguments, samples, of)
    late = np.array([item in late_items for item in samples.frame("test", ["raw_item_id"]).column(0).to_pylist()])
    raw = np.array(samples.frame("test", ["raw_item_id"]).column(0).to_pylist())
    auc: dict[str, list[tuple[float, float]]] = defaultdict(list)
    told: dict[str, list[Explained]] = defaultdict(list)
    for seed in range(arguments.seeds):
        for name, variant in plans.items():
            result = run(name, variant, seed, arguments)
            auc[name].append((result["all"], result["unseen_items"]))
            if variant.model == "concepts" and variant.transport is not None:
                told[name].append(replace(explained(result["out"], variant.transport, samples), items=raw))
            console.print(f"seed {seed}, {name}: AUC {result['all']:.4f}, unseen items {result['unseen_items']:.4f}")
    table = Table("variant", "AUC", "AUC, unseen items", title=f"{arguments.seeds} seeds")
    for name, runs in auc.items():
        table.add_row(name, *(f"{np.mean(of):.4f} ± {np.std(of):.4f}" for of in zip(*runs, strict=True)))
    console.print(table)
    slopes = [effects(one) for one in told["concepts"]]
    means = {name: float(np.mean([one[name] for one in slopes])) for name in slopes[0]}
    wanted = dict(
        zip(KNOWN, np.mean(json.loads(Path(arguments.truth).read_text())["effects"]["taste"], axis=0), strict=True)
    )
    anchors = Table(
        "anchor", "effect of 1 s.d.", "true", title="plumbing, no result: the effects are among the anchors"
    )
    for name, effect in sorted(means.items(), key=lambda one: -abs(one[1])):
        anchors.add_row(name, f"{effect:+.3f}", f"{wanted[name]:+.3f}" if name in wanted else "0")
    console.print(anchors)
    correlations = {
        name: float(np.mean([correlation(of_picture(one), truth, late, one.items) for one in runs]))
        for name, runs in told.items()
    }
    shares = {name: named_share(runs) for name, runs in told.items()}
    gained = {name: np.mean(runs, axis=0) - np.mean(auc["DIN, ids only"], axis=0) for name, runs in auc.items()}
    ratios = {
        "sum_error": max(max(one.error, one.exported_error) for runs in told.values() for one in runs),
        "kept_grocery": float(gained["concepts"][0] / gained["DIN, concepts"][0]),  # of the same vectors
        "kept_grocery_unseen": float(gained["concepts"][1] / gained["DIN, concepts"][1]),
        "jaccard": jaccard([top_terms(one) for one in told["concepts"]]),
    }
    if "concepts, hidden anchors" in correlations:
        ratios["truth_hidden"] = correlations["concepts, hidden anchors"]
    aucs = {name: [round(float(value), 4) for value in np.mean(runs, axis=0)] for name, runs in auc.items()}
    finish("whitebox", ratios, auc=aucs, correlation=correlations, rest_share=shares, effects=means)


def named_share(runs: list[Explained]) -> float:
    """How much of what the picture adds, in absolute size, is of rest and of concepts without a name."""
    shares = []
    for run_ in runs:
        first = run_.contributions[0]
        size = np.mean([np.abs(one.values).mean(axis=0) for one in run_.contributions], axis=0)
        of_concepts = np.array(
            [c is not None and t.kind != BIAS for c, t in zip(first.concepts, first.terms, strict=True)]
        )
        nameless = np.array([c is not None and not c.named for c in first.concepts])
        shares.append(float(size[nameless].sum() / size[of_concepts].sum()))
    return float(np.mean(shares))


if __name__ == "__main__":
    main()
