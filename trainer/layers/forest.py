"""Boosted trees as tensors: the leaf of each tree that a row falls into. LightGBM fits them, and reads nothing back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Forest(nn.Module):
    """Trees of splits ``column <= threshold``, each in slots: first its splits, the root ahead, then its leaves.

    A leaf leads to itself, so that all rows go down as many steps. Of a tree that was not needed, ``grown`` is false.

    Args:
        trees: T, how many at most.
        leaves: of a tree, at most.
    """

    column: Tensor
    threshold: Tensor
    child: Tensor
    grown: Tensor

    def __init__(self, trees: int, leaves: int):
        super().__init__()
        self.leaves = leaves
        slots = 2 * leaves - 1
        self.register_buffer("column", torch.zeros((trees, slots), dtype=torch.int64))
        self.register_buffer("threshold", torch.zeros((trees, slots), dtype=torch.float64))
        itself = torch.arange(slots)[:, None]
        itself = torch.where(itself < leaves - 1, leaves - 1, itself)  # a tree without splits is its first leaf
        self.register_buffer("child", itself.repeat(trees, 1, 2))
        self.register_buffer("grown", torch.zeros(trees, dtype=torch.bool))

    def plant(self, booster: Any) -> None:
        """Take the trees of a LightGBM booster that has no categorical columns and no missing values."""
        for number, tree in enumerate(booster.dump_model()["tree_info"]):
            self.grown[number] = True
            waiting = [tree["tree_structure"]]
            while waiting:
                if "split_index" not in (split := waiting.pop()):
                    continue
                at, children = (number, split["split_index"]), [split["right_child"], split["left_child"]]
                self.column[at], self.threshold[at] = split["split_feature"], split["threshold"]
                self.child[at] = torch.tensor([self._slot(child) for child in children])
                waiting += children

    def _slot(self, child: dict[str, Any]) -> int:
        slot: int = child["split_index"] if "split_index" in child else self.leaves - 1 + child["leaf_index"]
        return slot

    def forward(self, columns: Tensor) -> Tensor:
        """Leaves of rows, shape (B, T), of columns, shape (B, C)."""
        trees, slots = self.column.shape
        rows, width = columns.shape
        root = torch.arange(trees, device=columns.device) * slots
        # All is flat, and slots have 4 bytes: twice as fast as ``gather`` and ``take``.
        child = (self.child + root[:, None, None]).reshape(-1).int()
        column, threshold, flat = self.column.reshape(-1), self.threshold.reshape(-1), columns.double().reshape(-1)
        row = (torch.arange(rows, device=columns.device) * width)[:, None].expand(rows, trees).reshape(-1)
        at = root.int().expand(rows, trees).reshape(-1)
        for _ in range(self.leaves - 1):  # as deep as a tree can be
            low = flat.index_select(0, row + column.index_select(0, at)) <= threshold.index_select(0, at)
            at = child.index_select(0, 2 * at + low)
        return at.reshape(rows, trees) - root - (self.leaves - 1)
