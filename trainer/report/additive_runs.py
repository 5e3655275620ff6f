"""The runs of a report whose model is a sum of named terms: those of one choice of settings, a seed each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from crossmedia.concepts import ConceptCard
from crossmedia.errors import BadInput
from crossmedia.trainer.layers.additive import ConceptTerms
from crossmedia.trainer.models.concepts import Concepts
from crossmedia.trainer.reasons.contributions import additive, is_additive
from crossmedia.trainer.report.summary import called, model_name, rows, spaces_of
from crossmedia.trainer.runs.checkpoint import Lineage, load_cards, load_model
from crossmedia.trainer.runs.results import Line
from crossmedia.trainer.runs.run_folder import name_in_comparison

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class AdditiveRuns:
    """Runs that differ in their seed alone.

    Attributes:
        called: the model, and what vectors it had.
        models: what is served of each, a sum of terms.
        seeds: of each.
        cards: what the numbers of vectors mean, by space; the names of the first run.
        lineage: of the first run.
        fitted: settings of the first run.
        absent: how many more there are whose weights are elsewhere.
    """

    called: str
    models: tuple[Concepts, ...]
    seeds: tuple[int, ...]
    cards: Mapping[str, ConceptCard]
    lineage: Lineage
    fitted: Mapping[str, Any]
    absent: int = 0

    @property
    def precision(self) -> Floats:
        """What the penalty of the model adds to the information on each effect of a concept, a row, shape (C,)."""
        model = self.models[0]
        scales = [layer.scale.numpy() for layer in model.of_spaces.values() if isinstance(layer, ConceptTerms)]
        found: Floats = 2 * model.l2 / np.concatenate(scales).astype(np.float64) ** 2
        return found


def additive_runs(folder: Path, lines: list[Line]) -> AdditiveRuns | None:
    """The runs of the first model of a comparison that is a sum of terms with concepts; None: no model is one.

    Args:
        folder: of the comparison, or of the run alone.
        lines: of its results.

    Raises:
        BadInput: a run is damaged, or its names of concepts are.
    """
    groups: dict[tuple[str, tuple[str, ...], str], list[Line]] = {}
    for line in lines:
        if line["images"]:
            groups.setdefault((model_name(line), spaces_of(line), line["samples"]), []).append(line)
    for group in groups.values():
        places = [_place(folder, line) for line in group]
        there = [place for place in places if place.is_dir()]
        if not there or not is_additive(load_model(there[0])[0]):
            continue
        loaded = [load_model(place) for place in there]
        _, lineage, fitted = loaded[0]
        return AdditiveRuns(
            called(rows(group)[0]),
            tuple(additive(model).eval() for model, _, _ in loaded),
            tuple(int(settings["seed"]) for _, _, settings in loaded),
            load_cards(there[0]),
            lineage,
            fitted,
            len(places) - len(there),
        )
    return None


def needed_runs(folder: Path, lines: list[Line]) -> AdditiveRuns:
    """As ``additive_runs``, where there must be some.

    Raises:
        BadInput: no model is a sum of terms with concepts; or what ``additive_runs`` raises.
    """
    if (found := additive_runs(folder, lines)) is not None:
        return found
    models = ", ".join(dict.fromkeys(line["model"] for line in lines))
    raise BadInput(
        f"The page of an item says what each concept of its photo adds, and no model in {folder} is a sum of concepts "
        f"(there: {models}). Train one, 'crossmedia trainer fit --model concepts' on vectors of 'imgserver concepts "
        f"build', or rocket with --set light=concepts; 'trainer explain' approximates what others look at."
    )


def _place(folder: Path, line: Line) -> Path:
    own = name_in_comparison(line["model"], spaces_of(line), line["seed"])
    return Path(line.get("folder") or folder / own)
