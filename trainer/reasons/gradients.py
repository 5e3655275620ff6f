"""Integrated gradients: what columns add to the logit of a net, approximately (Sundararajan et al., ICML 2017).

Legend: B rows, n behaviours of a row, E numbers of an item, O numbers beside items, W numbers of a column.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from crossmedia.errors import BadInput
from crossmedia.trainer.feed import Fed
from crossmedia.trainer.images.spaces import Spaces
from crossmedia.trainer.layers.inputs import Inputs
from crossmedia.trainer.models.base import EmbeddingModel
from crossmedia.trainer.reasons.rows import Added
from crossmedia.trainer.tensors import Bag, TensorBatch

STEPS = 50
INSTALL = 'Integrated gradients need captum, which is not installed. Install it with: pip install "crossmedia[explain]"'


def integrated_gradients(model: EmbeddingModel, fed: Fed, spaces: Spaces, label: int) -> Added:
    """What each column adds to the logits: of the target, of the behaviours, and of the rest; from embeddings of 0 on.

    What a model computes from vectors directly, such as their cosine, is not on the way: it is part of the start. Of
    each column of behaviours the one that adds most is named.

    Args:
        model: in evaluation mode.
        fed: rows.
        spaces: their vectors.
        label: of the model's.

    Raises:
        BadInput: captum is not installed.
    """
    try:
        from captum.attr import IntegratedGradients
    except ModuleNotFoundError:
        raise BadInput(INSTALL) from None
    vectors = fed.vectors(spaces)
    with torch.no_grad():
        logits = model(fed.tensors, vectors)[:, label].numpy()
    names = ("start", *_columns(model))
    values = np.zeros((len(logits), len(names)), dtype=np.float32)
    behaviour = np.full(values.shape, -1, dtype=np.int64)
    for row in range(len(logits)):
        with torch.no_grad():
            x = model.inputs(repeated(fed.tensors, row, 1), vectors)

        def logit(target: Tensor, history: Tensor, other: Tensor, row: int = row, x: Inputs = x) -> Tensor:
            many = repeated(fed.tensors, row, len(target))
            given = replace(x, target=target, history=history.flatten(0, 1), other=other)
            return model.top(given, many)[:, label] + model.sampling_log_odds

        given = (x.target, x.history[None], x.other)
        with torch.no_grad():
            values[row, 0] = logit(*map(torch.zeros_like, given)).item()  # type: ignore[arg-type]  # three of them
        target, history, other = IntegratedGradients(logit).attribute(given, n_steps=STEPS)
        width = model.inputs.width
        of_target, of_other = _by_column(target, width)[0], _by_column(other, width)[0]
        of_each = _by_column(history[0], width)
        values[row, 1:] = np.concatenate([of_target, of_each.sum(axis=0), of_other])
        if len(of_each):
            first = 1 + len(of_target)
            behaviour[row, first : first + of_each.shape[1]] = (of_each * np.sign(of_each.sum(axis=0))).argmax(axis=0)
    return Added(names, values, behaviour, float(np.abs(values.sum(axis=1) - logits).max(initial=0)))


def _by_column(attributions: Tensor, width: int) -> npt.NDArray[np.float32]:
    """Sums over the numbers of each column, shape (n, columns), of attributions, shape (n, columns W)."""
    found: npt.NDArray[np.float32] = (
        attributions.detach().reshape(len(attributions), attributions.shape[1] // width, width).sum(2).numpy()
    )
    return found


def _columns(model: EmbeddingModel) -> list[str]:
    """Names of the columns of the target, of behaviours, and of the rest, in the order of ``Inputs``."""
    spec = model.spec
    item = [*spec.item_columns, *spec.item_bags, *spec.item_numbers, "kind and age"]
    item += [f"{name} (vector)" for name in spec.spaces]
    other = [*spec.user_columns, *spec.text_columns, *spec.user_lists, *spec.user_numbers]
    return [*item, *(f"{name} x behaviours" for name in item), *other]


def repeated(batch: TensorBatch, row: int, times: int) -> TensorBatch:
    """A batch of one row, so many times."""
    own = torch.nonzero(batch.segments == row).squeeze(1)
    every = torch.full((times,), row)

    def again(values: Tensor) -> Tensor:
        return values[own].repeat(times)

    def bags(lists: dict[str, Bag]) -> dict[str, Bag]:
        return {name: bag.of(every, batch.rows) for name, bag in lists.items()}

    return TensorBatch(
        labels={name: values[every] for name, values in batch.labels.items()},
        ids={name: values[every] for name, values in batch.ids.items()},
        numbers={name: values[every] for name, values in batch.numbers.items()},
        lists=bags(batch.lists),
        text=bags(batch.text),
        items=batch.items,
        target=batch.target[every],
        history=again(batch.history),
        action=again(batch.action),
        history_age=again(batch.history_age),
        segments=torch.arange(times).repeat_interleave(len(own)),
        lengths=torch.full((times,), len(own)),
    )
