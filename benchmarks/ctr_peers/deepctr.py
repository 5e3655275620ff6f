"""DeepCTR-Torch's LR, DIN and DIEN.

LR is the library's wide part alone (``WDL`` without deep columns). A step is the body of the library's ``fit``; its
loader, which collates row by row, and its metrics in every step are left out.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy

from benchmarks.ctr_peers.arrays import ACTION, AGE, Arrays, Columns, Float32Array
from benchmarks.ctr_peers.peer import CONTEXT_WIDTH, WIDTH, Tuned
from crossmedia.features.batch import Int64Array

# When it is imported the library asks a server, in a thread, whether it is up to date. No benchmark does that.
_silent = ModuleType("deepctr_torch.utils")
_silent.check_version = lambda version: None  # type: ignore[attr-defined]
sys.modules.setdefault("deepctr_torch.utils", _silent)

from deepctr_torch.inputs import (  # noqa: E402
    SparseFeat,
    VarLenSparseFeat,
    get_varlen_pooling_list,
    varlen_embedding_lookup,
)
from deepctr_torch.models import DIEN, DIN, WDL  # noqa: E402

SETTINGS: dict[str, dict[str, Any]] = {
    "lr": {"combiner": "mean"},
    "din": {
        "dnn_hidden_units": (200, 80),
        "dnn_activation": "relu",
        "att_hidden_size": (64, 16),
        "att_activation": "Dice",
        "att_weight_normalization": False,
        "dnn_use_bn": False,
        "init_std": 1e-4,
        "glorot": True,
    },
    "dien": {
        "dnn_hidden_units": (200, 80),
        "dnn_activation": "relu",
        "gru_type": "AUGRU",
        "att_hidden_units": (64, 16),
        "att_activation": "relu",
        "att_weight_normalization": True,
        "use_bn": False,
        "init_std": 1e-4,
        "glorot": True,
    },
}
REGULARISATION = {"lr": 1e-5, "din": 1e-6, "dien": 1e-6}  # the library's defaults, of a loss that is a sum over rows


class TextDIEN(DIEN):  # type: ignore[misc]
    """The library's DIEN, which leaves out pooled columns, with the pooling that the library's DIN has."""

    def _pooled(self) -> list[Any]:
        return [column for column in self.varlen_sparse_feature_columns if column.length_name is None]

    def _compute_dnn_dim(self) -> int:
        width: int = super()._compute_dnn_dim() + sum(column.embedding_dim for column in self._pooled())
        return width

    def _get_deep_input_emb(self, x: Tensor) -> Tensor:
        columns = self._pooled()
        found: Tensor = super()._get_deep_input_emb(x)
        if not columns:
            return found
        embedded = varlen_embedding_lookup(x, self.embedding_dict, self.feature_index, columns)
        pooled = get_varlen_pooling_list(embedded, x, self.feature_index, columns, self.device)
        return torch.cat([found, *(one.squeeze(1) for one in pooled)], dim=-1)


class DeepCTR:
    """A model of DeepCTR-Torch."""

    def __init__(self, model: str, columns: Columns, tuned: Tuned, seed: int):
        settings = dict(SETTINGS[model])
        l2 = REGULARISATION[model] if tuned.regularisation is None else tuned.regularisation
        # The wide part adds its weights to zeros of its input's type; the others only look up.
        self.dtype = torch.float32 if model == "lr" else torch.int64
        if model == "lr":
            wide = _wide_columns(columns, settings.pop("combiner"))
            self.model = WDL(wide, [], l2_reg_linear=l2, seed=seed, **settings)
        else:
            glorot, made = settings.pop("glorot"), DIN if model == "din" else TextDIEN
            self.model = made(_columns(columns), list(columns.item), l2_reg_embedding=l2, seed=seed, **settings)
            if glorot:
                _glorot(self.model)
        optimizer = torch.optim.Adam(self.model.parameters(), lr=tuned.learning_rate, fused=True)
        self.model.compile(optimizer, "binary_crossentropy")

    def prepare(self, arrays: Arrays) -> tuple[Tensor, Tensor]:
        """The library's one matrix of all columns, shape (R, columns), and labels, shape (R,)."""
        found: dict[str, Any] = {**arrays.target, **arrays.user, **arrays.text, "hist_length": arrays.lengths}
        found |= {f"hist_{name}": values for name, values in arrays.history.items()}
        matrix = np.concatenate([found[n].reshape(len(arrays), -1) for n in self.model.feature_index], axis=1)
        return torch.from_numpy(matrix), torch.from_numpy(arrays.labels)

    def batch(self, prepared: tuple[Tensor, Tensor], rows: Int64Array) -> tuple[Tensor, Tensor]:
        """The same of some rows, shapes (B, columns) and (B,)."""
        matrix, labels = prepared
        index = torch.from_numpy(rows)
        return matrix.index_select(0, index).to(self.dtype), labels.index_select(0, index)

    def step(self, batch: tuple[Tensor, Tensor]) -> None:
        """As in the library's ``fit``: the sum of the rows' losses, and regularisation."""
        x, labels = batch
        model = self.model
        predicted = model(x).squeeze(-1)
        model.optim.zero_grad()
        loss = binary_cross_entropy(predicted, labels, reduction="sum")
        (loss + model.get_regularization_loss() + model.aux_loss).backward()
        model.optim.step()

    def predict(self, batch: tuple[Tensor, Tensor]) -> Float32Array:
        """Probabilities, shape (B,)."""
        found: Float32Array = self.model(batch[0]).numpy().reshape(-1)
        return found


def _glorot(model: nn.Module) -> None:
    """Glorot weights for what multiplies.

    The library draws them with a deviation of .0001, the activation unit's too, which no argument reaches, and then
    the first gradients are of 1e-10 and below.
    """
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2 and not name.startswith("embedding_dict"):
            nn.init.xavier_normal_(parameter)


def _columns(columns: Columns) -> list[Any]:
    """Target and history in one order, for the library pairs them by it; the history's length has to come first."""

    def width(name: str) -> int:
        return CONTEXT_WIDTH if name in (ACTION, AGE) else WIDTH

    once = [SparseFeat(name, size, width(name)) for name, size in (columns.item | columns.user).items()]
    history = [
        VarLenSparseFeat(
            SparseFeat(f"hist_{name}", size, width(name), embedding_name=name),
            maxlen=columns.history,
            length_name="hist_length",
        )
        for name, size in columns.item.items()
    ]
    return [*once, *history, *_text(columns, "mean")]


def _wide_columns(columns: Columns, combiner: str) -> list[Any]:
    """Every column with weights of its own; the target's kind and age are constants, which the bias is already."""
    once = {n: size for n, size in (columns.user | columns.item).items() if n not in (ACTION, AGE)}
    history = [
        VarLenSparseFeat(SparseFeat(f"hist_{name}", size), maxlen=columns.history, combiner=combiner)
        for name, size in columns.item.items()
        if columns.history
    ]
    return [*(SparseFeat(name, size) for name, size in once.items()), *history, *_text(columns, combiner)]


def _text(columns: Columns, combiner: str) -> list[Any]:
    return [
        VarLenSparseFeat(SparseFeat(name, size, WIDTH), maxlen=columns.text_widths[name], combiner=combiner)
        for name, size in columns.text.items()
    ]
