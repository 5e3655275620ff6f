"""How good predictions are as probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[Any]


def log_loss(labels: Floats, probabilities: Floats) -> float:
    """Mean cross entropy, in nats.

    Args:
        labels: shape (B,), 0 or 1.
        probabilities: shape (B,); clipped to [1e-7, 1 - 1e-7].
    """
    y = np.asarray(labels, dtype=np.float64)
    p = np.clip(np.asarray(probabilities, dtype=np.float64), 1e-7, 1 - 1e-7)
    return float(-(y * np.log(p) + (1 - y) * np.log1p(-p)).mean())


def calibration(labels: Floats, probabilities: Floats) -> float:
    """Mean prediction over mean label: 1 is calibrated, above 1 predicts too much; NaN without a positive."""
    mean = float(np.asarray(labels, dtype=np.float64).mean())
    return float(np.asarray(probabilities, dtype=np.float64).mean() / mean) if mean else float("nan")
