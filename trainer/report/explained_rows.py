"""What concepts add to test rows, by each run: what the facts of a report are computed from.

Legend: S runs, R rows, C concepts of all spaces together, G groups of terms.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from crossmedia.concepts import Concept
from crossmedia.features.batch import Batch, Jagged
from crossmedia.features.columns import label_column
from crossmedia.features.reading.item_table import ItemTable, WindowItems
from crossmedia.features.reading.samples import Samples
from crossmedia.trainer.feed import Fed, Feed
from crossmedia.trainer.layers.additive import ID, MISSING, NUMBER, POPULARITY, SAME, SELLS, Term
from crossmedia.trainer.reasons.contributions import Contributions, contributions
from crossmedia.trainer.reasons.what_if import Effects, effects
from crossmedia.trainer.report.additive_runs import AdditiveRuns
from crossmedia.trainer.report.certainty import Outcomes

MOST_ROWS = 20_000  # that are drawn where the test part has more
NAMED, UNNAMED = "concepts with a name", "concepts without a name"
IDS, ALIKE, NUMBERS, POPULAR, ABSENT = (
    "ids and words",
    "ids like those of behaviours",
    "numbers",
    "how often the item was shown",
    "whether there is a photo",
)
Floats = npt.NDArray[np.float32]
Places = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Place:
    """A concept of a model.

    Attributes:
        name: of the term, with its space in front where there are several.
        space: of the vectors.
        number: in the vector.
        concept: what is known of it.
    """

    name: str
    space: str
    number: int
    concept: Concept


@dataclass(frozen=True)
class ExplainedRows:
    """Test rows under some runs.

    Attributes:
        places: the C concepts.
        outcomes: what came of the rows, the runs' mean prediction among it.
        there: shape (R, C), whether the ad has a vector in the concept's space.
        seen: shape (R, C), how much the behaviours' photos have of each concept, their mean; nan without any.
        columns: shape (R,) each, place in the vocabulary of each column of users and impressions, but for the user.
        logits: shape (S, R).
        values: shape (S, R, C), what each concept of the ad adds.
        slopes: shape (S, R, C), what one standard deviation more of it would.
        kinds: shape (S, 3, C), the mean of the slopes by what sells, to whom, and matches.
        groups: shape (S, R, G), what groups of terms add, by ``group_names``.
        group_names: what they are called.
    """

    places: tuple[Place, ...]
    outcomes: Outcomes
    there: npt.NDArray[np.bool_]
    seen: Floats
    columns: Mapping[str, Places]
    logits: Floats
    values: Floats
    slopes: Floats
    kinds: npt.NDArray[np.float64]
    groups: Floats
    group_names: tuple[str, ...]


def explained_rows(runs: AdditiveRuns, feed: Feed, seed: int, ad: int = -1, most: int = MOST_ROWS) -> ExplainedRows:
    """Test rows, drawn by seed where there are many, in the order of the file.

    Args:
        runs: whose models explain them.
        feed: the samples, and the vectors of the runs.
        seed: that draws.
        ad: row of the item table whose item is shown in each row, in place of what was; -1: what was shown.
        most: rows, at most.
    """
    samples = feed.samples
    total = samples.rows("test")
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.choice(total, min(total, most), replace=False))
    batches = some_rows(samples, chosen, feed.batch_size)
    parts = [_Part.of(runs, Fed.of(showing(batch, samples.items, ad), feed.device), feed) for batch in batches]
    logits = _stacked([[of.contributions.sum(axis=1) for of in part.of_runs] for part in parts])
    there = np.concatenate([part.of_runs[0].there for part in parts])
    terms = _terms(runs, feed)
    names = tuple(dict.fromkeys(filter(None, map(_group, terms.terms, terms.concepts))))
    return ExplainedRows(
        _places(terms),
        _outcomes(runs, samples, chosen, logits, np.concatenate([part.of_runs[0].amounts for part in parts])),
        there,
        np.concatenate([part.of_runs[0].seen for part in parts]),
        {name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns},
        logits,
        _stacked([[of.values for of in part.of_runs] for part in parts]),
        _stacked([[of.slopes for of in part.of_runs] for part in parts]),
        np.sum([part.kinds for part in parts], axis=0) / np.maximum(there.sum(axis=0), 1),
        _stacked([[_of_groups(of.contributions, terms, names) for of in part.of_runs] for part in parts]),
        names,
    )


def _outcomes(runs: AdditiveRuns, samples: Samples, chosen: Places, logits: Floats, amounts: Floats) -> Outcomes:
    column = label_column(samples.labels, runs.models[0].spec.labels[0])
    table = samples.frame("test", [column, "raw_user_id", "raw_item_id"]).take(chosen)
    users, items = (
        np.asarray(table[name].combine_chunks().dictionary_encode().indices).astype(np.int64)
        for name in ("raw_user_id", "raw_item_id")
    )
    probabilities = (1 / (1 + np.exp(-logits.astype(np.float64)))).mean(axis=0)
    labels = np.asarray(table[column].combine_chunks()).astype(np.float64)
    return Outcomes(labels, probabilities, amounts.astype(np.float64), users, items, runs.precision)


def showing(batch: Batch, items: ItemTable, ad: int) -> Batch:
    """The rows with one item shown in all of them, a row of the item table; -1: what was shown."""
    if ad < 0:
        return batch
    history = batch.items.rows[batch.history.values]
    window = WindowItems(items, np.full(len(batch), ad, dtype=np.int64), history)
    found, target, seen = window.batch(window.target, window.history)
    return replace(batch, items=found, target=target, history=Jagged(seen, batch.history.offsets))


@dataclass(frozen=True)
class _Part:
    """A batch, as each run explains it; ``kinds`` is the sum over rows with a photo, shape (S, 3, C)."""

    of_runs: list[Effects]
    columns: dict[str, Places]
    kinds: npt.NDArray[np.float64]

    @classmethod
    def of(cls, runs: AdditiveRuns, fed: Fed, feed: Feed) -> _Part:
        vectors = fed.vectors(feed.spaces)
        found = [effects(model, fed.tensors, vectors) for model in runs.models]
        columns = {name: ids.numpy() for name, ids in fed.tensors.ids.items() if name != "user_id"}
        kinds = [(of.more.astype(np.float64) * of.there[:, None, :]).sum(axis=0) for of in found]
        return cls(found, columns, np.stack(kinds))


def _terms(runs: AdditiveRuns, feed: Feed) -> Contributions:
    """A row's contributions, for the names of their terms."""
    fed = Fed.of(next(feed.samples.batches("test", 1)), feed.device)
    return contributions(runs.models[0], fed.tensors, fed.vectors(feed.spaces), runs.cards)


def some_rows(samples: Samples, rows: Places, batch_size: int) -> Iterator[Batch]:
    """Some test rows, ascending, in batches."""
    start = 0
    for batch in samples.batches("test", batch_size):
        first, last = np.searchsorted(rows, [start, start + len(batch)])
        if first < last:
            yield batch.take(rows[first:last] - start)
        start += len(batch)


def _places(found: Contributions) -> tuple[Place, ...]:
    return tuple(
        Place(name, term.space, term.place, concept)
        for name, term, concept in zip(found.names, found.terms, found.concepts, strict=True)
        if term.kind == SELLS and concept is not None
    )


def _group(term: Term, concept: Concept | None) -> str:
    """What a term is told together with; empty: it is every row's."""
    if concept is not None:
        return NAMED if concept.named else UNNAMED
    return {ID: IDS, SAME: ALIKE, NUMBER: NUMBERS, POPULARITY: POPULAR, MISSING: ABSENT}.get(term.kind, "")


def _of_groups(values: Floats, of: Contributions, names: Sequence[str]) -> Floats:
    """What groups of terms add, shape (B, G)."""
    of_terms = [_group(term, concept) for term, concept in zip(of.terms, of.concepts, strict=True)]
    own = [[place for place, name in enumerate(of_terms) if name == group] for group in names]
    return np.stack([values[:, places].sum(axis=1) for places in own], axis=1)


def _stacked(parts: Sequence[Sequence[Floats]]) -> Floats:
    """Arrays of each run by part, as one of shape (S, R, …)."""
    return np.stack([np.concatenate(of_run) for of_run in zip(*parts, strict=True)])
