"""What all benchmarks rest on: a part that fails says so, and does not leave the others waiting."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from benchmarks.parts import Part

ROUND = partial(partial, int, "7")  # makes work that does 7 items a round
FAILING = partial(partial, int, "seven")  # makes work that fails


@pytest.mark.timeout(60)
@pytest.mark.parametrize("make", [partial(int, "seven"), FAILING], ids=["made", "at work"])
def test_a_part_that_fails_says_why(make: Callable[..., Any]) -> None:
    with pytest.raises(RuntimeError, match="ValueError: invalid literal"):
        Part(make)


@pytest.mark.timeout(60)
def test_a_round_is_measured_and_the_first_is_not_counted() -> None:
    part = Part(ROUND)
    for _ in range(2):
        part.round()
    part.close()
    assert part.taken.items == [7, 7]
    assert min(part.taken.rates) > 0
    assert part.taken.client_peak > 1 << 20
