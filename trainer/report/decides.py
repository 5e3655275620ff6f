"""What decides: the concepts of a model, what one standard deviation of each does, and how much has no name."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from crossmedia.errors import BadInput, CrossMediaError, NoStore
from crossmedia.trainer.report.additive_runs import AdditiveRuns
from crossmedia.trainer.report.concept_words import what_it_is
from crossmedia.trainer.report.effects import Certainty, Change, Difference, by_behaviours, change, segments
from crossmedia.trainer.report.explained_rows import NAMED, UNNAMED, ExplainedRows
from crossmedia.trainer.report.opened import Opened, opened
from crossmedia.trainer.report.photos import NO_PHOTOS
from crossmedia.trainer.settings import ReportConfig
from crossmedia.words import counted, percent

JUDGED = 12  # concepts that are looked at by segments: each of these takes its time
SHOWN_DIFFERENCES = 3
MISSED = 0.05  # of concepts without any effect have an interval without zero, for each is looked at by itself
DRAWN, PHOTOS = 12, 3  # concepts that get photos, and photos of each end


@dataclass(frozen=True)
class Effect:
    """What a concept does.

    Attributes:
        name: of it.
        kind: one of ``crossmedia.concepts.KINDS``.
        what: it is, in words.
        evidence: how well it is founded, in words; empty of what is measured in the pixels.
        space: of its vectors.
        named: whether its name means something to people.
        change: what one standard deviation more of it in the ad's photo does, mean over the rows.
        to_all, to_whom, matches: what of the change is the same for everybody, of users' columns, of behaviours.
        low_tenth, high_tenth: the change of the logit that a tenth of the rows is below, and above.
        size: root of the mean square of the change over the rows: how much it decides, whichever way.
        for_whom: where it differs most from all rows; of the largest ones only.
        most, least: image ids of photos that have the most and the least of it.
    """

    name: str
    kind: str
    what: str
    evidence: str
    space: str
    named: bool
    change: Change
    to_all: float
    to_whom: float
    matches: float
    low_tenth: float
    high_tenth: float
    size: float
    for_whom: tuple[Difference, ...]
    most: tuple[int, ...]
    least: tuple[int, ...]


@dataclass(frozen=True)
class Decides:
    """What decides in the runs of a report.

    Attributes:
        model: that the facts are of.
        label: what is predicted.
        looks: what of an item has concepts, in words: ``photo``, or ``photo and title``.
        interval: what the intervals are over, in words.
        rows: of the test part that were looked at.
        sentences: what there is to know, the first thing first.
        effects: of all concepts, those that decide most first.
        shares: what moves a logit from row to row: the mean size of each group of terms, as a share of all.
        unnamed: share of what concepts move that has no name.
    """

    model: str
    label: str
    looks: str
    interval: str
    rows: int
    sentences: tuple[str, ...]
    effects: tuple[Effect, ...]
    shares: dict[str, float]
    unnamed: float


def what_decides(found: Opened) -> Decides:
    """The facts of the section.

    Args:
        found: the runs of the report, with their samples and vectors.
    """
    runs, rows, samples = found.runs, found.rows(), found.samples
    certainty = Certainty(rows)
    sizes = np.sqrt((rows.slopes.astype(np.float64) ** 2).mean(axis=(0, 1)))
    order = np.argsort(-sizes, kind="stable").tolist()
    halves, of_columns = certainty.halves, segments(rows, samples)
    judged = {concept: [*of_columns, *by_behaviours(rows, concept)] for concept in order[:JUDGED]}
    comparisons = max(1, sum(map(len, judged.values())))
    effects = []
    for concept in order:
        place, there = rows.places[concept], rows.there[:, concept]
        slopes = rows.slopes[:, there, concept]
        to_all, to_whom, matches = rows.kinds[:, :, concept].mean(axis=0).tolist()
        low, high = np.quantile(slopes.mean(axis=0), [0.1, 0.9]).tolist() if there.any() else [0.0, 0.0]
        differences = certainty.differences(
            rows.slopes[:, :, concept], np.eye(len(order))[concept], judged.get(concept, []), comparisons
        )
        effects.append(
            Effect(
                place.name,
                place.concept.kind,
                what_it_is(place.concept),
                place.concept.evidence,
                place.space,
                place.concept.named,
                change(rows.logits[:, there], slopes, float(halves[concept])),
                to_all,
                to_whom,
                matches,
                low,
                high,
                float(sizes[concept]),
                tuple(differences[:SHOWN_DIFFERENCES]),
                place.concept.most,
                place.concept.least,
            )
        )
    shares = _shares(rows)
    of_concepts = shares.get(NAMED, 0.0) + shares.get(UNNAMED, 0.0)
    unnamed = shares.get(UNNAMED, 0.0) / of_concepts if of_concepts else 0.0
    label = runs.models[0].spec.labels[0]
    said = (*_of_effects(effects, label, found.looks), _of_shares(shares, unnamed))
    count = len(rows.outcomes.labels)
    return Decides(runs.called, label, found.looks, interval_over(runs), count, said, tuple(effects), shares, unnamed)


def outcome(label: str) -> str:
    """What is predicted, as a plural: ``clicks`` of the label ``click``."""
    return label if label.endswith("s") else f"{label}s"


def _shares(rows: ExplainedRows) -> dict[str, float]:
    groups = rows.groups.astype(np.float64)
    sizes = np.abs(groups - groups.mean(axis=1, keepdims=True)).mean(axis=(0, 1))
    shares = sizes / sizes.sum() if sizes.sum() else sizes
    found = dict(zip(rows.group_names, shares.tolist(), strict=True))
    return dict(sorted(found.items(), key=lambda one: -one[1]))


def _of_effects(effects: list[Effect], label: str, looks: str) -> list[str]:
    """What sells in two sentences: the clear ones, and where it is another thing for others."""
    named = [one for one in effects if one.named]
    clear = sorted((one for one in named if one.change.is_clear), key=lambda one: -abs(one.change.logit))
    said, by_chance = [], MISSED * len(named)
    if clear and len(clear) <= by_chance:
        said.append(
            f"No concept can be told from chance in what it adds for everybody: of {len(named)} with a name "
            f"{len(clear)} could, each looked at by itself, where chance alone would show about {by_chance:.0f}."
        )
    elif clear:
        parts = ", ".join(f"{one.name} ×{one.change.times:.2f}" for one in clear[:3])
        rest = f" (and {len(clear) - 3} more)" if len(clear) > 3 else ""
        said.append(
            f"One standard deviation more in an ad's {looks} multiplies the {outcome(label)} that the model predicts: "
            f"{parts}{rest}."
        )
        expected = f"; chance alone would show about {by_chance:.0f}" if by_chance >= 1 else ""
        said.append(f"Of {counted(len(named), 'concept')} with a name, {len(clear)} can be told from chance{expected}.")
    else:
        said.append(
            f"None of {counted(len(named), 'concept')} with a name can be told from chance in what it adds for "
            f"everybody."
        )
    if named and (most := max(named, key=lambda one: one.high_tenth - one.low_tenth)).high_tenth:
        said.append(
            f"Users differ most in {most.name}: one standard deviation more of it changes the score by "
            f"{most.low_tenth:+.2f} or less for a tenth of the rows, and by {most.high_tenth:+.2f} or more for another."
        )
    return said


def _of_shares(shares: dict[str, float], unnamed: float) -> str:
    parts = ", ".join(f"{percent(share)} {name}" for name, share in shares.items() if share >= 0.005)
    return f"What moves a score from row to row: {parts}. Of what concepts move, {percent(unnamed)} has no name."


def interval_over(runs: AdditiveRuns) -> str:
    """What intervals are over."""
    over = "95 % intervals are over the users and items of the test rows"
    if len(runs.seeds) > 1:
        return f"{over}, and over {len(runs.seeds)} seeds."
    return f"{over}; there is one seed, and another training may say something else."


@dataclass(frozen=True)
class Drawn:
    """A concept as the page shows it, ``least`` and ``most`` being data URIs of photos."""

    effect: Effect
    least: list[str]
    most: list[str]


@dataclass(frozen=True)
class DecidesSection:
    """The section of the page; or why there is none.

    Attributes:
        facts: None: they could not be had.
        drawn: concepts that decide most, with their photos.
        reach: of the scale, in logits.
        absent: why there is none, or no photos.
    """

    facts: Decides | None
    drawn: list[Drawn]
    reach: float = 1.0
    absent: str = ""

    @property
    def differs(self) -> bool:
        """Whether any concept can be told to be another thing for some users."""
        return self.facts is not None and any(d.is_clear for one in self.facts.effects for d in one.for_whom)


def decides_section(config: ReportConfig, runs: AdditiveRuns) -> DecidesSection:
    """What decides, with photos.

    Args:
        config: of the report.
        runs: that are sums of terms.

    Raises:
        BadInput, NoStore: a place that was given is wrong.
    """
    try:
        with opened(config, runs) as found:
            facts = what_decides(found)
            shown = [one for one in facts.effects if one.kind != "rest"][:DRAWN]
            photos = found.photos((one.space, i) for one in shown for i in (*one.most[:PHOTOS], *one.least[:PHOTOS]))
    except CrossMediaError as error:
        if (config.server or config.store or config.vectors) and isinstance(error, NoStore | BadInput):
            raise
        return DecidesSection(None, [], absent=f"Not computed: {error}")
    drawn = [
        Drawn(
            one,
            *(
                [photos[one.space, i] for i in ids[:PHOTOS] if (one.space, i) in photos]
                for ids in (one.least, one.most)
            ),
        )
        for one in shown
    ]
    reach = max((abs(end) for one in shown for end in (one.change.low, one.change.high)), default=1.0)
    return DecidesSection(facts, drawn, reach or 1.0, "" if photos else NO_PHOTOS)
