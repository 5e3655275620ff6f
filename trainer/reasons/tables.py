"""Reasons and sentences of each row of a part of the samples, as columns beside its scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch

from crossmedia.concepts import ConceptCard
from crossmedia.features.batch import Batch
from crossmedia.features.columns import ACTION, HISTORY, ITEM
from crossmedia.trainer.feed import Fed, Feed
from crossmedia.trainer.models.base import Model
from crossmedia.trainer.reasons.contributions import additive, contributions
from crossmedia.trainer.reasons.explained import reasons_of
from crossmedia.trainer.reasons.sentences import Done, sentence

REASON = pa.struct([("term", pa.string()), ("contribution", pa.float32()), ("behaviour_id", pa.string())])


def reasons_table(model: Model, cards: Mapping[str, ConceptCard], feed: Feed, split: str, count: int) -> pa.Table:
    """Columns ``reasons``, a list of so many terms a row, and ``sentence``, in file order.

    Args:
        model: ``concepts``, or the light net of Rocket that is one.
        cards: what the numbers of vectors mean, by space.
        feed: the rows, with the vectors of their items.
        split: which of them.
        count: reasons a row, at most.

    Raises:
        BadInput: the model is no sum of terms.
    """
    served, reasons, said = additive(model).eval(), [], []
    items = feed.samples.vocabulary.values[ITEM]
    actions = feed.samples.vocabulary.values.get(ACTION)
    for batch in feed.samples.batches(split, feed.batch_size):
        fed = Fed.of(batch, feed.device)
        with torch.inference_mode():
            found = contributions(served, fed.tensors, fed.vectors(feed.spaces), cards)
        for row in range(len(batch)):
            first, last = batch.history.offsets[row : row + 2]
            places = batch.items.ids[ITEM][batch.history.values[first:last]]
            reasons.append(
                [
                    {
                        "term": one.term,
                        "contribution": one.contribution,
                        "behaviour_id": None if one.behaviour is None else _value(items, int(places[one.behaviour])),
                    }
                    for one in reasons_of(found, row, count)
                ]
            )
            said.append(sentence(found, row, done_of(batch, row, actions), float(batch.timestamp[row])))
    return pa.table({"reasons": pa.array(reasons, pa.list_(REASON)), "sentence": pa.array(said, pa.string())})


def _value(values: pa.Array, place: int) -> str | None:
    """The raw value of a place; None of the unknown one."""
    return values[place - 1].as_py() if place else None


def done_of(batch: Batch, row: int, actions: pa.Array | None) -> list[Done]:
    """The behaviours of a row, oldest first.

    Args:
        batch: that the row is in.
        row: which.
        actions: raw values of the vocabulary of actions, place 1 first; None: there is none.
    """
    first, last = batch.history.offsets[row : row + 2]
    now = float(batch.timestamp[row])
    return [
        Done("" if actions is None else _value(actions, int(action)) or "", now - float(age))
        for action, age in zip(batch.action[first:last], batch.history_age_s[first:last], strict=True)
    ]


def done_of_request(batch: Batch, user: Mapping[str, Any], actions: pa.Array | None) -> list[Done]:
    """The behaviours of a request that the model saw, oldest first; without times where not all are given.

    Args:
        batch: of the request; each row is a candidate.
        user: what the request says of the user.
        actions: as of ``done_of``.
    """
    if not len(batch):
        return []
    done, times = done_of(batch, 0, actions), user.get(HISTORY + "time")
    known = times is not None and not pc.is_null(pa.array(times), nan_is_null=True).to_numpy(False).any()
    return done if known else [replace(one, time_s=None) for one in done]
