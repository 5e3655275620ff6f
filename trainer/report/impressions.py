"""Single impressions as a model saw them: what was shown, what the user did before, and what of it counted.

Legend: T behaviours of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from crossmedia.disk import open_regular
from crossmedia.errors import BadInput, CrossMediaError, NoStore
from crossmedia.features.columns import label_column
from crossmedia.features.reading.samples import Samples
from crossmedia.trainer.feed import Fed, Feed
from crossmedia.trainer.models.din import DIN
from crossmedia.trainer.reasons.contributions import contributions, is_additive
from crossmedia.trainer.reasons.explained import reasons_of
from crossmedia.trainer.reasons.sentences import sentence
from crossmedia.trainer.report.explained_rows import some_rows
from crossmedia.trainer.report.opened_run import OpenedRun, loaded_run
from crossmedia.trainer.report.photos import NO_PHOTOS, Names, Picture, data_uris
from crossmedia.trainer.report.shown_runs import compared
from crossmedia.trainer.runs.checkpoint import PREDICTIONS, needed, samples_folder
from crossmedia.trainer.settings import ReportConfig
from crossmedia.words import counted

SHOWN, SHOWN_BEHAVIOURS, REASONS, JUDGED = 6, 8, 4, 400
FEWEST = 2  # behaviours of an impression that is drawn: with fewer there is nothing to choose among
IDLE = 0.01  # weights of this size are nothing
IDLE_SHARE, LITTLE_SHARE = 0.05, 0.25  # of their size, by which weights that differ less are alike, or nearly
NO_ROWS = "There are too few rows to draw."
Places = npt.NDArray[np.int64]


class Told(NamedTuple):
    """A term of a row's score: its name, what it adds, and the behaviour that it comes from most, if it is of any."""

    term: str
    adds: float
    behaviour: str = ""


@dataclass(frozen=True)
class Impression:
    """An impression of the test part.

    Attributes:
        row: of the part.
        positive: whether its label is 1.
        predicted: the probability.
        item: what was shown.
        behaviours: the latest, oldest first; of a model that attends with the weight of each.
        of: how many there are.
        reasons: of a sum of terms: those that count most, whichever way.
        sentence: what a shopper may be told; often empty.
    """

    row: int
    positive: bool
    predicted: float
    item: Picture
    behaviours: list[Picture]
    of: int
    reasons: list[Told]
    sentence: str = ""

    @property
    def text(self) -> str:
        """What it is, in a line."""
        said = f"{'Positive' if self.positive else 'Negative'} row, predicted {self.predicted:.2f}"
        if not self.of:
            return f"{said}; the user did nothing before"
        return f"{said}; the latest {len(self.behaviours)} of {counted(self.of, 'behaviour')}, oldest first"


@dataclass(frozen=True)
class Impressions:
    """Impressions drawn by seed, positive ones first.

    Attributes:
        shown: half of them positive.
        absent: why there are none, in a sentence.
        said: what the weights of many rows say of the attention; empty of a model that does not attend.
        model: that they are of.
    """

    shown: list[Impression]
    absent: str = ""
    said: str = ""
    model: str = ""


def impressions(config: ReportConfig, count: int = SHOWN) -> Impressions:
    """Impressions of a run, or of the run of a comparison that explains most.

    Args:
        config: of a report: the folder, and where samples, vectors and photos are.
        count: how many, half of them positive.

    Raises:
        BadInput, NoStore: the folder holds no run, or a place that was given is wrong.
    """
    comparison = compared(config.comparison)
    samples = Samples(samples_folder(config.comparison, comparison["samples"], config.samples))
    try:
        run = loaded_run(config.comparison, comparison["runs"])
        with run.opened(config, samples) as opened:
            return impressions_of(opened, config.seed, count)
    except CrossMediaError as error:
        if (config.server or config.store or config.vectors) and isinstance(error, NoStore | BadInput):
            raise
        return Impressions([], f"Not drawn: {error}")


@torch.inference_mode()
def impressions_of(opened: OpenedRun, seed: int, count: int = SHOWN) -> Impressions:
    """As ``impressions``, of a run that is open."""
    samples, model, name = opened.feed.samples, opened.run.model, opened.run.lineage.model
    attends = isinstance(model, DIN) and bool(samples.actions)
    if not attends and not is_additive(model):
        return Impressions([], f"{name} neither attends to behaviours nor is it a sum of terms.", "", name)
    column = label_column(samples.labels, model.spec.labels[0])
    frame = samples.frame("test", [column, "image_id", "hist_image_id", "hist_item_id", "raw_item_id"])
    lengths = np.asarray(pc.list_value_length(frame["hist_image_id"]).combine_chunks())
    positive = np.asarray(frame[column].combine_chunks()) > 0
    rng, able = np.random.default_rng(seed), lengths >= (FEWEST if samples.actions else 0)
    kinds = [rng.permutation(np.flatnonzero(able & (positive == kind))) for kind in (True, False)]
    rows = np.concatenate([np.sort(rows[: count // 2]) for rows in kinds])
    if not len(rows):
        return Impressions([], NO_ROWS, "", name)
    weights, said = dict[int, npt.NDArray[np.float32]](), ""
    if attends:
        judged = np.sort(np.concatenate([rows[: JUDGED // 2] for rows in kinds]))
        weights = dict(zip(judged.tolist(), _weights(opened.feed, model, judged), strict=True))
        said = judgement(list(weights.values()))
    reasons = _reasons(opened, np.sort(rows)) if is_additive(model) else {}
    with open_regular(needed(opened.run.folder, PREDICTIONS)) as file:  # Arrow takes no path that is not UTF-8
        predicted = pq.read_table(file)["probability"].to_numpy()
    drawn = _Drawn.of(opened, samples, frame, rows.tolist())
    shown = [
        Impression(
            row,
            bool(positive[row]),
            float(predicted[row]),
            drawn.item(row),
            drawn.behaviours(row, weights.get(row)),
            int(lengths[row]),
            [Told(term, adds, drawn.behaviour(row, place)) for term, adds, place in reasons.get(row, _NOTHING)[0]],
            reasons.get(row, _NOTHING)[1],
        )
        for row in rows.tolist()
    ]
    # Reasons are read without photos, weights of behaviours are not.
    if not reasons and not any(picture.data for one in shown for picture in (one.item, *one.behaviours)):
        return Impressions([], NO_PHOTOS, said, name)
    return Impressions(shown, "", said, name)


_Reasons = tuple[list[tuple[str, float, int | None]], str]
_NOTHING: _Reasons = ([], "")


def _reasons(opened: OpenedRun, rows: Places) -> dict[int, _Reasons]:
    """Of each row the terms that count most, with the number of their behaviour; and a sentence."""
    feed, found = opened.feed, dict[int, _Reasons]()
    numbers = iter(rows.tolist())
    for batch in some_rows(feed.samples, rows, feed.batch_size):
        fed = Fed.of(batch, feed.device)
        of = contributions(opened.run.model, fed.tensors, fed.vectors(feed.spaces), opened.run.cards)
        for place in range(len(batch)):
            terms = reasons_of(of, place, REASONS)
            told = [(one.term, one.contribution, one.behaviour) for one in terms]
            found[next(numbers)] = told, sentence(of, place)
    return found


@dataclass(frozen=True)
class _Drawn:
    """Photos and names of some rows."""

    frame: pa.Table
    names: Names
    uris: dict[int, str]

    @classmethod
    def of(cls, opened: OpenedRun, samples: Samples, frame: pa.Table, rows: list[int]) -> _Drawn:
        targets = frame["image_id"].to_numpy()[rows].tolist()
        latest = [i for row in rows for i in frame["hist_image_id"][row].as_py()[-SHOWN_BEHAVIOURS:]]
        return cls(frame, Names(samples), data_uris(opened.images.source, [*targets, *latest]))

    def item(self, row: int) -> Picture:
        """What was shown."""
        image = int(self.frame["image_id"][row].as_py())
        return Picture(image, self.uris.get(image, ""), Names.item(self.frame["raw_item_id"][row].as_py()), "")

    def behaviours(self, row: int, weights: npt.NDArray[np.float32] | None) -> list[Picture]:
        """The latest behaviours, with their weights where there are any."""
        images = self.frame["hist_image_id"][row].as_py()[-SHOWN_BEHAVIOURS:]
        items = self.frame["hist_item_id"][row].as_py()[-SHOWN_BEHAVIOURS:]
        called = self.names.of_behaviours(images, items)
        if weights is None:
            return [Picture(i, self.uris.get(i, ""), name, "") for i, name in zip(images, called, strict=True)]
        beside = zip(images, called, weights[len(weights) - len(images) :].tolist(), strict=True)
        return [Picture(i, self.uris.get(i, ""), name, f"{w:+.2f}", min(1.0, abs(w)), w < 0) for i, name, w in beside]

    def behaviour(self, row: int, place: int | None) -> str:
        """What a behaviour is called, the oldest being 0; empty: there is none."""
        if place is None:
            return ""
        here = slice(place, place + 1)
        images, items = (self.frame[name][row].as_py()[here] for name in ("hist_image_id", "hist_item_id"))
        return self.names.of_behaviours(images, items)[0]


def judgement(weights: Sequence[npt.NDArray[np.float32]]) -> str:
    """Whether attention tells behaviours apart, in a sentence.

    Args:
        weights: of each row, shape (T,), T at least 2.
    """
    size = float(np.mean([np.abs(row).mean() for row in weights]))
    spread = float(np.mean([row.std() for row in weights]))
    rows = counted(len(weights), "such row")
    what = f"in {rows} weights have a size of {size:.3f}, and differ within a row by {spread:.3f}"
    if size < IDLE:
        return f"Attention does nothing here: {what}, so that no behaviour counts."
    if spread < IDLE_SHARE * size:
        return f"Attention does nothing here: {what}, so that all behaviours of a row count alike, whatever is shown."
    if spread < LITTLE_SHARE * size:
        return f"Attention does little here: {what}, so that the behaviours of a row count nearly alike."
    return f"Attention tells behaviours apart: {what} (means over rows)."


def _weights(feed: Feed, model: Any, rows: Places) -> list[npt.NDArray[np.float32]]:
    """Attention weights of some test rows, ascending."""
    found = list[npt.NDArray[np.float32]]()
    for fed in feed.of(some_rows(feed.samples, rows, feed.batch_size)):
        values = model.attention(fed.tensors, fed.vectors(feed.spaces)).numpy()
        found += np.split(values, np.cumsum(fed.tensors.lengths.numpy())[:-1])
    return found
