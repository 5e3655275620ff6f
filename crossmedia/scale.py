"""The scale of vectors: models begin as if each number had a mean square of 1, as those of a PCA have."""

from __future__ import annotations

import math

FAR = 4.0  # times as large or as small


def doubt_of_scale(mean_square: float, what: str) -> str:
    """A sentence on vectors of another scale than models begin with; empty: they are near enough.

    Args:
        mean_square: of their numbers.
        what: they are.

    Example:
        >>> from crossmedia.scale import doubt_of_scale
        >>> doubt_of_scale(0.9, "clip.parquet")
        ''
        >>> doubt_of_scale(1 / 64, "clip.parquet")[:77]
        'The numbers of clip.parquet have a mean square of 0.016, and models begin as '
    """
    if 1 / FAR <= mean_square <= FAR:
        return ""
    if not mean_square:
        return f"The numbers of {what} are all 0."
    return (
        f"The numbers of {what} have a mean square of {mean_square:.2g}, and models begin as if it were 1: they learn "
        f"worse from other vectors. Multiply all by {1 / math.sqrt(mean_square):.3g}, and import them again."
    )
