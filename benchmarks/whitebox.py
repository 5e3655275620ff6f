"""Is the white box exact, does it find what is known to sell, and what does it cost beside DIN?

    python -m benchmarks.whitebox --samples samples --store store --logs logs --frozen old-store

On the clicks that ``examples/grocery/simulate.py --plain`` draws, whose effects are known. ``--store`` has features
with the numbers of the pixels and an active version of ``imgserver concepts build``, ``--frozen`` those of the default
head. All variants are trained with the same seeds and the recipe of ``benchmarks.worth``.

With the simulator's statistics among the concepts, their effects are a check of the plumbing and no result. All else is
measured with them hidden (``benchmarks/whitebox_bank.py``): the correlation of the picture's part with the true effect
on photos that training never saw; photos that are rendered warmer, brighter, greener; what that sells. ``--classes``
are logs of ``simulate.py --effect department`` with their samples in the folder ``samples``: what sells there is no
number of the pixels. ``--fashion`` are samples of H&M, several: what is kept of what pictures are worth to DIN.
``--names`` is what ``benchmarks.whitebox_concepts`` printed. Shuffled photos and random directions must fail; what only
stands beside the others is trained with one seed.
Deletion tests are left out: in a sum they are passed by construction.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.parts import finish
from benchmarks.whitebox_bank import Bank, hidden_bank, pca_bank, random_bank, strict_bank
from benchmarks.whitebox_disentangled import dci, importances, one_code_r2
from benchmarks.whitebox_ebm import yardstick
from benchmarks.whitebox_interventions import Pairs, moved, what_if
from benchmarks.whitebox_kept import PICTURES, WHITE, fashion, kept
from benchmarks.whitebox_rendering import FACTORS
from benchmarks.whitebox_runs import Variant, in_memory, jaccard, of_bank
from benchmarks.whitebox_speed import milliseconds
from benchmarks.whitebox_study import HIDDEN, RANDOM, SHUFFLED, STRICT, Runs, Study, Told, train, variants
from benchmarks.whitebox_tables import show
from benchmarks.whitebox_truth import Truth, ceiling
from crossmedia.concepts import ConceptCard
from crossmedia.imgserver.concepts.building import build_concepts
from crossmedia.imgserver.head_files import load_card, load_head
from crossmedia.imgserver.storage.store import Store
from crossmedia.imgserver.storage.versions import held
from crossmedia.imgserver.vision.photometry import ANCHORS
from crossmedia.trainer.intervals import JudgedRows
from crossmedia.trainer.models.concepts import REST
from crossmedia.trainer.report.certainty import Outcomes, covariance, half_width

CLASSES = "concepts, class sells"
L2 = 1e-3  # of ``Concepts``
Floats = npt.NDArray[np.float64]
Array = npt.NDArray[Any]


def intervals(told: Told, test: JudgedRows, predicted: list[Array], card: ConceptCard) -> tuple[Floats, Floats]:
    """Effects of concepts, and half of the 95 % interval of each, which are to hold together; shape (C,) each.

    Over users, items and seeds: seeds alone do not see that all learn from the same clicks.
    """
    precision = np.full(len(card), 2 * L2)
    precision[card.of_kind("rest")] /= REST**2
    mean = np.mean(predicted, axis=0).astype(np.float64)
    rows = Outcomes(
        test.labels, mean, told.amounts, test.users.astype(np.int64), test.items.astype(np.int64), precision
    )
    errors = np.sqrt(np.diag(covariance(rows)))
    return told.effects.mean(axis=0), half_width(errors, rows.groups, told.effects, comparisons=len(card))


def disentangled(banks: Mapping[str, Bank], pairs: Pairs) -> dict[str, Any]:
    """One-code R² and DCI of each bank, on late photos and their renderings."""
    features = np.concatenate([pairs.before[np.unique(pairs.photo, return_index=True)[1]], pairs.after])
    factors = features[:, [ANCHORS.index(name) - len(ANCHORS) for name in FACTORS]].astype(np.float64)
    found = {}
    for name, bank in banks.items():
        codes = bank.of(features).astype(np.float64)
        r2, both = one_code_r2(codes, factors), dci(importances(codes, factors))
        found[name] = {"codes": codes.shape[1], "one_code_r2": float(r2.mean()), "r2": r2.tolist(), **asdict(both)}
    return found


def of_classes(study: Study) -> dict[str, Any]:
    """The second simulation: a class sells, and concepts are built on photos of other items."""
    logs = Path(study.arguments.classes)
    truth = Truth.of(logs / "truth.json", study.photos, Path(study.arguments.items))
    head, card = build_concepts(study.early(truth))
    variant = Variant("concepts", of_bank(Bank(head, card), truth.photos, study.features))
    runs = train(study, {CLASSES: variant}, logs / "samples", truth)
    told, names = runs.told[CLASSES], card.names
    effects = dict(zip(names, told.effects.mean(axis=0).tolist(), strict=True))
    largest = dict(sorted(effects.items(), key=lambda one: -abs(one[1]))[:5])
    return {
        "auc": {name: np.mean(auc, axis=0).tolist() for name, auc in runs.auc.items()},
        "truth": float(np.mean(told.truth)),
        "ceiling": ceiling(study.features[:, : -len(ANCHORS)], truth),
        "sum_error": max(told.errors),
        "worth": dict(zip(truth.factors, truth.taste.tolist(), strict=True)),
        "largest": largest,
    }


def bank_of(folder: str) -> Bank:
    """The concepts that a store serves."""
    store = Store(Path(folder), create=False)
    try:
        version = str(held(store, "", "vector").version)
        return Bank(load_head(store, version), load_card(store, version))
    finally:
        store.close()


def of_pictures(study: Study, banks: Mapping[str, Bank], runs: Runs, pairs: Pairs, items: list[str]) -> dict[str, Any]:
    """What rendered photos move, and what they would sell, by bank."""
    found = {}
    for name, bank in banks.items():
        moves = moved(bank, pairs, bank.of(study.features).std(axis=0).astype(np.float64))
        uplifts = [what_if(bank, pairs, study.truth, slopes, items) for slopes in runs.told[name].slopes]
        found[name] = {
            "moved": [asdict(one) for one in moves],
            "right": float(np.mean([one.right for one in moves])),
            "others": max(one.others for one in moves),
            "drift": max(one.drift for one in moves),
            "slope": float(np.mean([one.slope for one in uplifts])),
            "correlation": float(np.mean([one.correlation for one in uplifts])),
            "points": np.stack([np.mean([one.model for one in uplifts], axis=0), uplifts[0].truth], axis=1).tolist(),
        }
    return found


def control(runs: Runs, name: str, test: JudgedRows, card: ConceptCard) -> dict[str, Any]:
    """How many effects have an interval without 0, of how many."""
    effects, halves = intervals(runs.told[name], test, runs.predicted[name], card)
    return {"effects": len(effects), "without_zero": int((np.abs(effects) > halves).sum())}


def measure(study: Study) -> None:
    """All parts, the tables, and the last line."""
    arguments, truth, early = study.arguments, study.truth, study.early(study.truth)
    learnt, pairs = study.renderings()
    whole, hidden = bank_of(arguments.store), hidden_bank(early, learnt)
    banks = {HIDDEN: hidden, STRICT: strict_bank(early), RANDOM: random_bank(early, hidden, 0)}
    plans = variants(study, banks)
    runs = train(study, plans, Path(arguments.samples), truth)
    test, items = JudgedRows.of(study.samples, "click"), study.items
    told: dict[str, Any] = {"auc": {name: np.mean(auc, axis=0).tolist() for name, auc in runs.auc.items()}}
    told["auc_std"] = {name: np.std(auc, axis=0).tolist() for name, auc in runs.auc.items()}
    told["seeds"] = {name: len(auc) for name, auc in runs.auc.items()}
    told["truth"] = {name: float(np.mean(one.truth)) for name, one in runs.told.items()}
    told["size"] = {name: float(np.mean(one.sizes)) for name, one in runs.told.items()}
    told["late"] = {name: np.mean(runs.told[name].late, axis=0).tolist() for name in (HIDDEN, STRICT)}
    told["ceiling"] = ceiling(study.features[:, : -len(ANCHORS)], truth)
    told["nameless"] = {name: float(np.mean(one.nameless)) for name, one in runs.told.items()}
    told["pictures"] = of_pictures(study, {WHITE: whole, HIDDEN: hidden}, runs, pairs, items)
    rivals = {"concepts": hidden, "PCA": pca_bank(early, hidden), "random directions": banks[RANDOM]}
    told["disentangled"] = disentangled(rivals, pairs)
    told["controls"] = {name: control(runs, name, test, whole.card) for name in (WHITE, SHUFFLED)}
    told["effects"] = effects_of(runs, test, whole.card, truth)
    shares = {f"grocery, {part}": kept(test, part, "auc", runs.sides) for part in ("all", "unseen_items")}
    for samples in arguments.fashion:
        own = fashion(samples, arguments.fashion_store, arguments.fashion_seeds, study.out)
        shares |= {f"{Path(samples).name}, {part}": one for part, one in own.items()}
    told["kept"] = {name: asdict(one) | {"counted": one.counted} for name, one in shares.items()}
    speeds = {name: study.out / f"{name.replace(' ', '-').replace(',', '')}-0" for name in (WHITE, PICTURES)}
    told["milliseconds"] = milliseconds(speeds, plans, Path(arguments.samples), Path(arguments.logs))
    if arguments.ebm:
        told["ebm"] = yardstick(study.samples, Path(arguments.logs), in_memory(arguments.store).vectors)
    if arguments.classes:
        told["classes"] = of_classes(study)
    show(told)
    finish("whitebox", ratios(told, runs, arguments.names), **told)


def effects_of(runs: Runs, test: JudgedRows, card: ConceptCard, truth: Truth) -> dict[str, Any]:
    """The effect of each anchor with its interval, and the true one: plumbing, and no result."""
    effects, halves = intervals(runs.told[WHITE], test, runs.predicted[WHITE], card)
    true = dict(zip(truth.factors, truth.taste.tolist(), strict=True))
    return {
        card.names[place]: [float(effects[place]), float(halves[place]), true.get(card.names[place], 0.0)]
        for place in card.of_kind("anchor")
    }


def ratios(told: Mapping[str, Any], runs: Runs, names: str) -> dict[str, float]:
    """What the last line ends with; unrounded."""
    counted = {name: one for name, one in told["kept"].items() if one["counted"]}
    found = {
        "sum_error": max(error for one in runs.told.values() for error in one.errors),
        "truth_hidden": told["truth"][HIDDEN],
        "truth_unnamed": told["truth"][STRICT],
        "intervention": told["pictures"][HIDDEN]["right"],
        "what_if_slope": told["pictures"][HIDDEN]["slope"],
        "jaccard": jaccard(runs.told[WHITE].tops),
    }
    for key, prefix in (("kept_grocery", "grocery, unseen"), ("kept_fashion", "")):
        own = [one for name, one in counted.items() if name.startswith(prefix) and ("grocery" in name) == bool(prefix)]
        if own:
            found[key] = min(one["share"] for one in own)
    if names:
        last = json.loads(Path(names).read_text().strip().splitlines()[-1])["ratios"]
        found["names"] = last["names"]
    return found


def main() -> None:
    """Train, explain, compare."""
    parser = argparse.ArgumentParser(description="The white box: exact, right, and what it costs.")
    parser.add_argument("--samples", type=Path, required=True)
    parser.add_argument("--store", required=True, help="with numbers of the pixels, and an active version of concepts")
    parser.add_argument("--logs", required=True, help="what the simulator wrote")
    parser.add_argument("--frozen", default="", help="store with vectors of the default head")
    parser.add_argument("--photos", default="examples/grocery/images")
    parser.add_argument("--items", default="examples/grocery/photos.csv")
    parser.add_argument("--classes", default="", help="logs of --effect, with their samples in the folder 'samples'")
    parser.add_argument("--fashion", nargs="*", default=[], help="samples of H&M, one folder or several")
    parser.add_argument("--fashion-store", default="", help="of H&M, with an active version of concepts")
    parser.add_argument("--fashion-seeds", type=int, default=5)
    parser.add_argument("--ebm", action="store_true", help="the yardstick; needs interpret-core")
    parser.add_argument("--names", default="", help="what benchmarks.whitebox_concepts printed, a file")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", default="", help="folder of runs and renderings; a temporary one when it is not given")
    parser.add_argument("--quick", action="store_true", help="one seed, two epochs, an eighth of the renderings")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.seeds = arguments.fashion_seeds = 1
    with tempfile.TemporaryDirectory() as folder:
        arguments.out = arguments.out or folder
        measure(Study(arguments))


if __name__ == "__main__":
    main()
