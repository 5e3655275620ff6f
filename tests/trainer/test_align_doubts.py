"""What is said of a head that is not shown to be better than chance or its start."""

from __future__ import annotations

from typing import Any

import pytest

from crossmedia.trainer.align.doubts import doubts

FOUND: dict[str, Any] = {
    "queries": 1000,
    "pool": 500,
    "random": {"10": 0.02, "100": 0.20},
    "start": {"10": 0.05, "100": 0.31},
    "aligned": {"10": 0.06, "100": 0.33},
}


def test_a_difference_that_chance_makes_is_said_with_its_figures() -> None:
    (said,) = doubts("test", FOUND)
    # Twice the standard error of the difference of two shares of 1,000: 1.96 * sqrt((.33 * .67 + .31 * .69) / 1000).
    assert said == (
        "test: aligned is not shown to be better than start: recall@100 0.3300 and 0.3100, where 1,000 queries "
        "differ by 0.0409 by chance."
    )
    assert doubts("test", FOUND | {"queries": 5000}) == []
    assert doubts("test", FOUND, others=("random",)) == []


@pytest.mark.parametrize(("pool", "k"), [(100, 10), (101, 100), (11, 10)])
def test_a_recall_among_no_more_than_k_images_is_not_looked_at(pool: int, k: int) -> None:
    (said,) = (sentence for sentence in doubts("test", FOUND | {"pool": pool}) if "start" in sentence)
    assert f"recall@{k} " in said


def test_too_few_images_tell_nothing() -> None:
    assert doubts("test", FOUND | {"pool": 10}) == [
        "test: 10 images are too few to tell heads apart: a recall among them says nothing."
    ]
