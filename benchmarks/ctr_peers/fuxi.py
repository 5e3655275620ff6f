"""FuxiCTR's LR, DIN and DIEN.

DIN and DIEN are those of the library's LongCTR collection, the ones that its package holds: they embed history and
target in one look-up and cut the history to the longest of the batch. LR is written from the library's layer as in its
model zoo. A step is the models' own ``train_step``, the loop around it ours: the library's ``fit`` adds nothing to it.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from fuxictr.features import FeatureMap
from fuxictr.pytorch.layers import LogisticRegression
from fuxictr.pytorch.models import BaseModel
from model_zoo.LongCTR.DIEN.DIEN import DIEN
from model_zoo.LongCTR.DIN.DIN import DIN
from torch import Tensor

from benchmarks.ctr_peers.arrays import ACTION, AGE, Arrays, Columns, Float32Array
from benchmarks.ctr_peers.peer import CONTEXT_WIDTH, WIDTH, Tuned
from crossmedia.features.batch import Int64Array

LABEL = "label"
POOLED = "layers.MaskedAveragePooling()"
MAX_GRADIENT_NORM = 10.0  # what fit of the library has by default

SETTINGS: dict[str, dict[str, Any]] = {
    "lr": {},
    "din": {
        "dnn_hidden_units": [200, 80],
        "dnn_activations": "Dice",
        "attention_hidden_units": [64, 16],
        "attention_hidden_activations": "Dice",
        "din_use_softmax": False,
        "batch_norm": False,
        "net_dropout": 0,
    },
    "dien": {
        "dnn_hidden_units": [200, 80],
        "dnn_activations": "ReLU",
        "gru_type": "AUGRU",
        "attention_type": "din_attention",
        "attention_hidden_units": [64, 16],
        "attention_activation": "Dice",
        "use_attention_softmax": True,
        "batch_norm": True,
        "net_dropout": 0,
    },
}
REGULARISATION = 0.0  # the library's default


class LR(BaseModel):  # type: ignore[misc]
    """Logistic regression as in the library's model zoo, which is not in its package."""

    def __init__(self, feature_map: FeatureMap, learning_rate: float, regularizer: float, **kwargs: Any):
        super().__init__(feature_map, embedding_regularizer=regularizer, net_regularizer=regularizer, **kwargs)
        self.lr_layer = LogisticRegression(feature_map, use_bias=True)
        self.compile(kwargs["optimizer"], kwargs["loss"], learning_rate)
        self.reset_parameters()

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Probabilities, shape (B, 1)."""
        return {"y_pred": self.output_activation(self.lr_layer(self.get_inputs(inputs)))}


class Fuxi:
    """A model of FuxiCTR, on the CPU or on a GPU by its number."""

    def __init__(self, model: str, columns: Columns, tuned: Tuned, seed: int, gpu: int = -1):
        torch.manual_seed(seed)
        self.flat = model == "lr"
        regularisation = REGULARISATION if tuned.regularisation is None else tuned.regularisation
        features = _flat_features(columns) if self.flat else _features(columns)
        settings = SETTINGS[model]
        common: dict[str, Any] = {
            "learning_rate": tuned.learning_rate,
            "optimizer": "adam",
            "loss": "binary_crossentropy",
            "metrics": ["AUC"],
            "model_root": "",
            "verbose": 0,
            "gpu": gpu,
        }
        if model == "lr":
            self.model = LR(features, regularizer=regularisation, **common, **settings)
        else:
            made = DIN if model == "din" else DIEN
            self.model = made(features, embedding_dim=WIDTH, embedding_regularizer=regularisation, **common, **settings)
        # The library names an optimizer and makes it plain; fused is the same Adam, four times as fast on a CPU.
        self.model.optimizer = torch.optim.Adam(self.model.parameters(), lr=tuned.learning_rate, fused=True)
        self.model._max_gradient_norm, self.model._batch_index = MAX_GRADIENT_NORM, 0  # what fit sets

    def prepare(self, arrays: Arrays) -> dict[str, dict[str, Tensor]]:
        """Columns as tensors; ``beside`` (R,) or (R, W), ``target`` (R,), ``history`` (R, T), ``lengths`` (R,)."""

        def tensors(columns: dict[str, Any]) -> dict[str, Tensor]:
            return {name: torch.from_numpy(values) for name, values in columns.items()}

        history = tensors(arrays.history)
        target = tensors({n: values for n, values in arrays.target.items() if not (self.flat and n in (ACTION, AGE))})
        beside = {**tensors(arrays.user), **tensors(arrays.text), LABEL: torch.from_numpy(arrays.labels)}
        if self.flat:
            beside |= target | {f"hist_{name}": values for name, values in history.items()}
        return {
            "beside": beside,
            "target": target,
            "history": history,
            "lengths": {"": torch.from_numpy(arrays.lengths)},
        }

    def batch(self, prepared: dict[str, dict[str, Tensor]], rows: Int64Array) -> Any:
        """What the library's loaders make: a dictionary for LR, else columns beside the items, items, and mask.

        An item column has shape (B * (t + 1),): each row's t behaviours, then its target; t is the batch's longest.
        """
        index = torch.from_numpy(rows)
        beside = {name: values.index_select(0, index) for name, values in prepared["beside"].items()}
        if self.flat:
            return beside
        lengths = prepared["lengths"][""].index_select(0, index)
        longest = max(int(lengths.max()), 1)
        items = {
            name: torch.cat(
                [
                    values[:, :longest].index_select(0, index),
                    prepared["target"][name].index_select(0, index)[:, None],
                ],
                dim=1,
            ).reshape(-1)
            for name, values in prepared["history"].items()
        }
        return beside, items, (torch.arange(longest) < lengths[:, None]).float()

    def step(self, batch: Any) -> None:
        """The library's own step: loss, regularisation, clipped gradient, Adam."""
        self.model.train_step(batch)

    def predict(self, batch: Any) -> Float32Array:
        """Probabilities, shape (B,)."""
        found: Float32Array = self.model(batch)["y_pred"].numpy().reshape(-1).astype(np.float32)
        return found


def _map(features: dict[str, dict[str, Any]], width: int) -> FeatureMap:
    made = FeatureMap("samples", "")
    made.features, made.labels, made.default_emb_dim = OrderedDict(features), [LABEL], width
    made.num_fields = made.get_num_fields()
    return made


def _categorical(source: str, size: int, width: int = WIDTH) -> dict[str, Any]:
    return {"source": source, "type": "categorical", "vocab_size": size, "padding_idx": 0, "embedding_dim": width}


def _features(columns: Columns) -> FeatureMap:
    """An item feature is looked up for behaviours and target together, so there is one of each."""
    item = {
        name: _categorical("item", size, CONTEXT_WIDTH if name in (ACTION, AGE) else WIDTH)
        for name, size in columns.item.items()
    }
    user = {name: _categorical("user", size) for name, size in columns.user.items()}
    text = {
        name: _categorical("text", size) | {"type": "sequence", "feature_encoder": POOLED}
        for name, size in columns.text.items()
    }
    return _map({**user, **text, **item}, WIDTH)


def _flat_features(columns: Columns) -> FeatureMap:
    """A weight a place of each column; the target's kind and age are constants, which the bias is already."""
    once = {n: size for n, size in (columns.user | columns.item).items() if n not in (ACTION, AGE)}
    several = columns.text | {f"hist_{name}": size for name, size in columns.item.items() if columns.history}
    features = {name: _categorical("", size, 1) for name, size in once.items()}
    features |= {name: _categorical("", size, 1) | {"type": "sequence"} for name, size in several.items()}
    return _map(features, 1)
