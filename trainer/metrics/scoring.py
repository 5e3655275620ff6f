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


def base_log_loss(labels: Floats) -> float:
    """Log loss of the best constant, the share of positives among these labels, in nats.

    Args:
        labels: shape (B,), 0 or 1; B is at least 1.
    """
    y = np.asarray(labels, dtype=np.float64)
    return log_loss(y, np.full(len(y), y.mean()))


def calibration(labels: Floats, probabilities: Floats) -> float:
    """Mean prediction over mean label: 1 is calibrated, above 1 predicts too much; NaN without a positive."""
    mean = float(np.asarray(labels, dtype=np.float64).mean())
    return float(np.asarray(probabilities, dtype=np.float64).mean() / mean) if mean else float("nan")
