"""How many photos a second a machine embeds, beside a pipeline that is played photo by photo."""

from __future__ import annotations

import heapq
import os
from itertools import pairwise

import pytest

from crossmedia.imgserver.vision.cost import EmbeddingCost, decode_processes
from crossmedia.imgserver.vision.machine import Machine

PHOTOS = 4000


def played(cost: EmbeddingCost, cores: int) -> float:
    """Photos a second where each is decoded, then handled by the process, then goes through the CNN.

    Any core takes what is furthest along; so many are decoded at once, and the process and the GPU take one at a time.
    """
    stages = [("decode", cost.decode_s, decode_processes(cores)), ("own", cost.own_s, 1)]
    stages += [] if cost.gpu_images_s else [("cnn", cost.cnn_s, cores)]
    waiting = [PHOTOS] + [0] * (len(stages) - 1)
    busy = [0] * len(stages)
    now, gpu_free, ends = 0.0, 0.0, list[tuple[float, int]]()
    while sum(waiting) or ends:
        for at in reversed(range(len(stages))):
            while waiting[at] and busy[at] < stages[at][2] and len(ends) < cores:
                waiting[at] -= 1
                busy[at] += 1
                heapq.heappush(ends, (now + stages[at][1], at))
        now, at = heapq.heappop(ends)
        busy[at] -= 1
        if at + 1 < len(stages):
            waiting[at + 1] += 1
        elif cost.gpu_images_s:
            gpu_free = max(now, gpu_free) + 1 / cost.gpu_images_s
    return PHOTOS / max(now, gpu_free)


@pytest.mark.parametrize("cores", [1, 2, 4, 8, 16, 64, 128])
@pytest.mark.parametrize(
    "cost",
    [
        EmbeddingCost(0.0025, 0.011, 0.0006),
        EmbeddingCost(0.020, 0.002, 0.0001),
        EmbeddingCost(0.001, 0.0, 0.0002),
        EmbeddingCost(0.0034, 0.0, 0.0006, gpu_images_s=8000.0),
        EmbeddingCost(0.0034, 0.0, 0.0001, gpu_images_s=900.0),
        EmbeddingCost(0.0034, 0.0, 0.0, gpu_images_s=8000.0),
    ],
)
def test_the_rate_is_that_of_a_pipeline_played_photo_by_photo(cost: EmbeddingCost, cores: int) -> None:
    # The pipeline takes a moment to fill and to run dry, in which not every part is at work.
    assert played(cost, cores) == pytest.approx(cost.photos_per_s(cores), rel=0.05)


def test_more_cores_are_never_less_and_never_more_than_in_proportion() -> None:
    cost = EmbeddingCost(0.0025, 0.011, 0.0006)
    rates = [cost.photos_per_s(cores) for cores in range(1, 200)]
    assert all(0 <= after - before <= rates[0] * 1.000001 for before, after in pairwise(rates))
    assert rates[-1] == pytest.approx(1 / 0.0006)
    assert cost.narrowest(1) == "cores"
    assert cost.narrowest(199) == "process"


def test_a_machine_decodes_by_the_same_rule() -> None:
    assert Machine().decoders == decode_processes(len(os.sched_getaffinity(0)))
    assert [decode_processes(cores) for cores in (1, 2, 8, 16, 64)] == [3, 4, 10, 14, 56]
