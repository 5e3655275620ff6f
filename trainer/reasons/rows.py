"""What terms add to rows, exactly or by an approximation: what a file of reasons is written of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from crossmedia.trainer.reasons.contributions import Contributions


@dataclass(frozen=True)
class Added:
    """What T terms add to the logits of B rows.

    Attributes:
        names: of the terms.
        values: shape (B, T).
        behaviour: shape (B, T), which behaviour of the row's history a term comes from most; -1: from none.
        error: the largest difference between the sum of a row and its logit.
    """

    names: tuple[str, ...]
    values: npt.NDArray[np.float32]
    behaviour: npt.NDArray[np.int64]
    error: float

    @classmethod
    def of(cls, found: Contributions, logits: npt.NDArray[np.float32]) -> Added:
        """Of a sum of terms, beside the logits that the model itself gives."""
        return cls(found.names, found.values, found.behaviour, float(np.abs(found.logits - logits).max(initial=0)))
