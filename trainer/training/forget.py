"""Ids that a run never saw get the weights of the unknown, so that who loads the model need not know which they are."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from crossmedia.errors import BadInput
from crossmedia.features.batch import Int64Array
from crossmedia.features.columns import HISTORY
from crossmedia.trainer.models.base import Model


def check_can_forget(model: Model, unseen: Mapping[str, Int64Array]) -> None:
    """Refuse a model in which some ids have no weights of their own.

    Args:
        model: that will be trained.
        unseen: column -> places; empty: the run sees every item.

    Raises:
        BadInput: weights of the columns belong to other ids as well.
    """
    if not unseen:
        return
    mixed = [
        column or "all columns"
        for columns in model.id_rows().values()
        for column in columns
        if not column or ("*" in column and any(part.removeprefix(HISTORY) in unseen for part in column.split("*")))
    ]
    if mixed or not model.ids_are_rows:
        what = f"it hashes {mixed[0]}" if mixed else "its trees compare the numbers of ids"
        raise BadInput(
            f"This model cannot be validated on unseen items: {what}, so that an item that it never saw would be taken "
            f"for another. Train it with --validate-on all-items, or hold items out in the samples with hold_out_items."
        )


@torch.no_grad()
def forget(model: Model, unseen: Mapping[str, Int64Array]) -> None:
    """Copy the weights of place 0, the unknown, to those places of columns that were never trained.

    Args:
        model: that ``check_can_forget`` let through.
        unseen: column -> places, as target and in histories.
    """
    weights: dict[str, torch.Tensor] = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name, columns in model.id_rows().items():
        for column, (first, _) in columns.items():
            if (places := unseen.get(column.removeprefix(HISTORY))) is not None:
                rows = torch.from_numpy(places).to(weights[name].device) + first
                weights[name][rows] = weights[name][first].clone()
