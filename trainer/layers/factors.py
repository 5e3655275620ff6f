"""A factorisation beside a net: the product of a user's numbers with an item's is a logit (matrix factorisation).

A net on embeddings that stand side by side does not learn their product well (Rendle, Krichene, Zhang and Anderson,
RecSys 2020, arXiv 2005.09683), so that it is added to what the net says, as DeepFM adds its factorisation machine (Guo
et al., IJCAI 2017, arXiv 1703.04247). docs/adr/0063 has what it is worth.

Legend: B rows, K factors, L labels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from crossmedia.arguments import must
from crossmedia.trainer.layers.inputs import InputSpec
from crossmedia.trainer.tensors import TensorBatch

USER, ITEM = "user_id", "item_id"
STD = 0.1  # of users' factors at first
SPEED = 5.0  # how many times as far as a weight of the net a factor goes in a step: alone, factors take far more epochs
PULL = 4.0  # towards 0: of half the squared length of all factors, beside the sum of the loss over the training rows


class Factors(nn.Module):
    """Logits p_u . q_i, of factors that users and items have for this alone.

    Items begin at 0, so that one that no training row has adds nothing. A factor is ``SPEED`` times its weight, which
    under Adam is a step size ``SPEED`` times as large.

    Args:
        spec: columns and sizes; the users and the items must be columns of it.
        size: K.

    Raises:
        BadInput: there is no column of users.
    """

    rows: Tensor

    def __init__(self, spec: InputSpec, size: int):
        super().__init__()
        must(USER in spec.user_columns, "factors", size, "0 where no column says who the user is")
        self.labels = len(spec.labels)
        self.users = nn.Embedding(spec.user_columns[USER], size)
        self.items = nn.Embedding(spec.item_columns[ITEM], size * self.labels)
        nn.init.normal_(self.users.weight, std=STD / SPEED)
        nn.init.zeros_(self.items.weight)
        self.register_buffer("rows", torch.ones(()))

    def acquaint(self, counts: Tensor) -> None:
        """Be told, before training, how often each item is the target of a training row, shape (items + 1,)."""
        self.rows.fill_(max(int(counts.sum()), 1))

    def _rows(self, batch: TensorBatch) -> tuple[Tensor, Tensor]:
        """Factors of the rows' users, shape (B, K), and of their items, shape (B, L K)."""
        items = self.items(batch.items.ids[ITEM].index_select(0, batch.target))
        return SPEED * self.users(batch.ids[USER]), SPEED * items

    def forward(self, batch: TensorBatch) -> Tensor:
        """Logits, shape (B, L)."""
        users, items = self._rows(batch)
        logits: Tensor = (users[:, None] * items.view(items.shape[0], self.labels, users.shape[1])).sum(2)
        return logits

    def penalty(self, batch: TensorBatch) -> Tensor:
        """What holds factors of few rows near 0: the same for each user and each item, however many rows they have."""
        size: Tensor = self.users.weight.square().sum() + self.items.weight.square().sum()
        return PULL / 2 * SPEED**2 / self.rows * size * min(batch.rows, 1)

    def id_rows(self, name: str) -> dict[str, dict[str, tuple[int, int]]]:
        """As ``Model.id_rows``, where the layer is a model's by this name."""
        tables = {"users": (USER, self.users), "items": (ITEM, self.items)}
        return {f"{name}.{part}.weight": {of: (0, len(table.weight))} for part, (of, table) in tables.items()}
