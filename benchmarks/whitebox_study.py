"""What all parts of the benchmark share: photos, features, what is true, renderings, and what is trained."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.whitebox_bank import Bank
from benchmarks.whitebox_interventions import Pairs
from benchmarks.whitebox_kept import IDS, PICTURES, SIDES, WHITE, predictions
from benchmarks.whitebox_rendering import Rendered, embedded, features_of, random_changes, single_steps
from benchmarks.whitebox_runs import (
    Explained,
    Variant,
    explained,
    in_memory,
    nameless_share,
    of_bank,
    run,
    shuffled,
    top_terms,
)
from benchmarks.whitebox_truth import Truth
from crossmedia.features.reading.samples import Samples
from crossmedia.imgserver.concepts.items import ItemTable
from crossmedia.imgserver.concepts.sample import Sample, read_sample
from crossmedia.imgserver.storage.store import Store

HIDDEN, STRICT, RANDOM, SHUFFLED = (
    *("concepts, hidden anchors", "concepts, no anchors at all"),
    *("concepts, random directions", "concepts, shuffled photos"),
)
FROZEN, WITHOUT = "DIN, frozen vectors", "concepts, ids only"
CONTROLS = {STRICT, RANDOM, SHUFFLED, FROZEN, WITHOUT}
CONTROL_SEEDS = 1  # of what only has to fail, or stands beside; the others have all
RENDERINGS, QUICK_RENDERINGS = 32, 4  # of a photo that probes learn from
Floats = npt.NDArray[np.float64]
Array = npt.NDArray[Any]


class Study:
    """What all parts of the benchmark share: photos, features, what is true, and where runs are.

    Args:
        arguments: of the command.
    """

    def __init__(self, arguments: argparse.Namespace):
        self.arguments, self.out = arguments, Path(arguments.out)
        self.photos = {int(path.stem): path for path in sorted(Path(arguments.photos).glob("*.jpg"))}
        self.truth = Truth.of(Path(arguments.logs) / "truth.json", self.photos, Path(arguments.items))
        _, self.features = features_of(Path(arguments.store))
        self.samples = Samples(arguments.samples)
        self.items: list[str] = self.samples.frame("test", ["raw_item_id"]).column(0).to_pylist()
        self.whole = self._sample()

    def _sample(self) -> Sample:
        table = ItemTable(self.arguments.items, key="item_id", columns_of_values=("coarse", "department"), group="fine")
        store = Store(Path(self.arguments.store), create=False)
        try:
            return read_sample(store, table, None)
        finally:
            store.close()

    def early(self, truth: Truth) -> Sample:
        """The photos of the items that training sees."""
        own = np.isin(self.whole.items.ids, truth.early_photos())
        return replace(self.whole, values=self.whole.values[own], items=self.whole.items.only(own))

    def renderings(self) -> tuple[Rendered, Pairs]:
        """Photos that probes learn from, and pairs of the others that they are judged by."""
        rng, early, late = np.random.default_rng(0), self.truth.early_photos(), self.truth.late_photos()
        count = QUICK_RENDERINGS if self.arguments.quick else RENDERINGS
        learnt = {int(photo): random_changes(count, self.truth.scale, rng) for photo in early}
        steps = single_steps(self.truth.scale)
        folder = self.out / f"parts-{count}"
        own = embedded(self.photos, learnt, folder / "learnt")
        judged = embedded(self.photos, {int(photo): steps for photo in late}, folder / "judged")
        return own, Pairs.of(judged, self.truth.scale)


def variants(study: Study, banks: dict[str, Bank]) -> dict[str, Variant]:
    """What is trained on the clicks that pixels sell."""
    concepts = in_memory(study.arguments.store)
    found = {WHITE: Variant("concepts", concepts), PICTURES: Variant("din", concepts), IDS: Variant("din", None)}
    for name, bank in banks.items():
        found[name] = Variant("concepts", of_bank(bank, study.truth.photos, study.features))
    found[SHUFFLED] = Variant("concepts", shuffled(concepts, 7))
    found[WITHOUT] = Variant("concepts", None)
    if study.arguments.frozen:
        found[FROZEN] = Variant("din", in_memory(study.arguments.frozen))
    return found


@dataclass
class Told:
    """What the runs of a variant say, a seed each: what is kept of ``Explained``, which is large.

    Of late photos ``truth`` is the correlation of the picture's part with the true effect, ``sizes`` its slope on it.
    """

    errors: list[float] = field(default_factory=list)
    truth: list[float] = field(default_factory=list)
    sizes: list[float] = field(default_factory=list)
    nameless: list[float] = field(default_factory=list)
    late: list[Floats] = field(default_factory=list)
    tops: list[list[set[str]]] = field(default_factory=list)
    slopes: list[Floats] = field(default_factory=list)
    amounts: Floats = field(default_factory=lambda: np.zeros((0, 0)))

    def add(self, found: Explained, truth: Truth, items: list[str]) -> None:
        """Another seed."""
        self.errors.append(max(found.error, found.exported_error))
        self.late.append(truth.beside(found.picture, items))
        found_part, true_part = self.late[-1].T
        self.truth.append(float(np.corrcoef(found_part, true_part)[0, 1]))
        self.sizes.append(float(np.polyfit(true_part, found_part, 1)[0]))
        self.nameless.append(nameless_share(found))
        self.tops.append(top_terms(found))
        self.slopes.append(found.slopes)
        self.amounts = np.concatenate([one.amounts for one in found.effects]).astype(np.float64)

    @property
    def effects(self) -> Floats:
        """What a standard deviation more of each concept adds on average, a seed each, shape (S, C)."""
        return np.stack([slopes.mean(axis=0) for slopes in self.slopes])


@dataclass
class Runs:
    """Everything that was trained on one log.

    Attributes:
        auc: of all rows and of unseen items, by variant, a seed each.
        predicted: of the test rows, likewise.
        told: of the variants that are sums.
    """

    auc: dict[str, list[tuple[float, float]]]
    predicted: dict[str, list[Array]]
    told: dict[str, Told]

    @property
    def sides(self) -> dict[str, list[Array]]:
        """What the three that ``kept`` compares predict."""
        return {side: self.predicted[side] for side in SIDES}


def train(study: Study, plans: Mapping[str, Variant], samples: Path, truth: Truth) -> Runs:
    """All runs, seed by seed, of controls the first; what ended before is not trained again."""
    opened = Samples(samples)
    items = opened.frame("test", ["raw_item_id"]).column(0).to_pylist()
    found = Runs({name: [] for name in plans}, {name: [] for name in plans}, {})
    for seed in range(study.arguments.seeds):
        for name, variant in plans.items():
            if seed >= CONTROL_SEEDS and name in CONTROLS:
                continue
            result = run(name, variant, seed, samples, study.out, study.arguments.quick)
            test = result["test"]
            found.auc[name].append((test["all"]["auc"], test["unseen_items"]["auc"]))
            found.predicted[name].append(predictions(Path(result["out"])))
            if variant.model == "concepts" and variant.transport is not None:
                told = explained(Path(result["out"]), variant.transport, opened)
                found.told.setdefault(name, Told()).add(told, truth, items)
            print(f"seed {seed}, {name}: AUC {found.auc[name][-1][0]:.4f}, {found.auc[name][-1][1]:.4f}", flush=True)
    return found
