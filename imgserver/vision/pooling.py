"""How the numbers of a text's tokens become those of the text: as the files of a sentence encoder say."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from crossmedia.errors import BadInput

MOST_TOKENS = 512
KINDS = {"pooling_mode_cls_token": "first", "pooling_mode_mean_tokens": "mean"}

Numbers = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Pooling:
    """Of a folder with an encoder, in the layout of Sentence Transformers.

    Attributes:
        kind: ``mean`` over a text's tokens, or the ``first``.
        max_tokens: of a text; the encoder reads no more of it.
    """

    kind: str = "mean"
    max_tokens: int = MOST_TOKENS

    @classmethod
    def of(cls, folder: Path) -> Pooling:
        """What the folder says; the mean of at most 512 tokens where it says nothing.

        Raises:
            BadInput: it says what is not known here.
        """
        said = read_json(folder / "1_Pooling" / "config.json")
        kinds = [name for name, on in said.items() if name.startswith("pooling_mode_") and on is True]
        kinds = kinds or [f"pooling_mode_{word}_tokens" for word in [said.get("pooling_mode")] if word == "mean"]
        if kinds and (len(kinds) > 1 or kinds[0] not in KINDS):
            raise BadInput(
                f"{folder}/1_Pooling/config.json asks for {' and '.join(kinds)}; known are: {', '.join(KINDS)}."
            )
        limits = [
            read_json(folder / "sentence_bert_config.json").get("max_seq_length"),
            read_json(folder / "tokenizer_config.json").get("model_max_length"),
            read_json(folder / "config.json").get("max_position_embeddings"),
        ]
        most = min([int(limit) for limit in limits if isinstance(limit, int) and limit > 0] or [MOST_TOKENS])
        return cls(KINDS[kinds[0]] if kinds else "mean", min(most, MOST_TOKENS))

    def pooled(self, tokens: Numbers, mask: npt.NDArray[Any]) -> Numbers:
        """One row a text, shape (n, F), of its tokens, shape (n, T, F), where ``mask``, shape (n, T), is not 0."""
        if self.kind == "first":
            return tokens[:, 0]
        there = mask.astype(np.float32)[:, :, None]
        found: Numbers = (tokens * there).sum(axis=1) / np.maximum(there.sum(axis=1), 1)
        return found


def of_length_1(values: Numbers) -> Numbers:
    """Rows, shape (n, F), each divided by its length."""
    found: Numbers = values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
    return found


def read_json(path: Path) -> dict[str, Any]:
    """What a file of settings says; nothing where there is none.

    Raises:
        BadInput: it is there, and is no JSON object.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} cannot be read: {error}.") from error
    if not isinstance(found, dict):
        raise BadInput(f"{path} holds no JSON object.")
    return found
