"""What the benchmark of the white box measures with, on cases that can be told by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.whitebox import correlation, jaccard, shuffled
from crossmedia.imgserver.client import MockTransport


def test_jaccard_is_over_rows_and_pairs_of_seeds() -> None:
    one, other = [{"a", "b", "c"}, {"a"}], [{"a", "b", "d"}, {"a"}]
    assert jaccard([one, one]) == 1
    assert jaccard([one, other]) == pytest.approx((2 / 4 + 1) / 2)
    assert jaccard([one, other, one]) == pytest.approx((0.75 + 1 + 0.75) / 3)
    assert math.isnan(jaccard([one]))


def test_each_late_item_counts_once_and_others_do_not() -> None:
    items = np.array(["a", "a", "a", "b", "c", "seen"])
    late = items != "seen"
    truth = np.array([1.0, 1.0, 1.0, 2.0, 3.0, 100.0])
    picture = np.array([1.0, 2.0, 3.0, 3.0, 4.0, -100.0])  # means 2, 3, 4
    assert correlation(picture, truth, late, items) == pytest.approx(1)


def test_shuffled_photos_are_the_same_vectors_at_others() -> None:
    of = MockTransport({i: np.full(4, i, dtype=np.float16) for i in range(50)})
    found = shuffled(of, 7)
    assert found.version == of.version
    assert sorted(float(vector[0]) for vector in found.vectors.values()) == [float(i) for i in range(50)]
    assert sum(found.vectors[i][0] != i for i in range(50)) > 40
