"""How long does a request take, by the white box and by DIN on the same vectors, through ``Scorer``?"""

from __future__ import annotations

import csv
import statistics
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.whitebox_runs import SPACE, Variant
from crossmedia.imgserver.client import ImageClient
from crossmedia.trainer.scorer import Scorer

CANDIDATES, REQUESTS, WARM, BEHAVIOURS = 200, 60, 10, 20
OF_ITEMS = ("item_id", "shop_id", "cate_id", "image_id")

Request = tuple[dict[str, Any], dict[str, list[Any]]]


def requests(logs: Path, count: int) -> list[Request]:
    """Users of the log with what they did, and candidates drawn from its items, as raw values."""
    items = {item["item_id"]: item | {"image_id": item["image_id"] or "-1"} for item in _rows(logs / "items.csv")}
    cities = {user["user_id"]: user["city"] for user in _rows(logs / "users.csv")}
    done: dict[str, list[dict[str, str]]] = defaultdict(list)
    for behaviour in _rows(logs / "behaviours.csv"):
        done[behaviour["user_id"]].append(behaviour)
    rng, found = np.random.default_rng(0), list[Request]()
    for user in sorted(done, key=lambda name: -len(done[name]))[:count]:
        own = done[user][-BEHAVIOURS:]
        shown = [items[str(item)] for item in rng.choice(sorted(items), CANDIDATES)]
        candidates = {name: [item[name] for item in shown] for name in (*OF_ITEMS, "title", "review")}
        history: dict[str, list[Any]] = {
            f"hist_{name}": [items[one["item_id"]][name] for one in own] for name in OF_ITEMS
        }
        history |= {"hist_action": [one["action"] for one in own], "hist_time": [int(one["time"]) for one in own]}
        found.append(({"user_id": user, "city": cities[user], **_numbers(history)}, _numbers(candidates)))
    return found


def _rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _numbers(columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Ids of images are numbers."""
    of_images = {name: [int(value) for value in columns[name]] for name in columns if name.endswith("image_id")}
    return {**columns, **of_images}


def milliseconds(runs: Mapping[str, Path], plans: Mapping[str, Variant], samples: Path, logs: Path) -> dict[str, float]:
    """Median of a request of 200 candidates by each run, in turn, so that what else the machine does meets all."""
    scorers = {}
    for name, folder in runs.items():
        transport = plans[name].transport
        assert transport is not None
        scorers[name] = Scorer.load(folder, samples, {SPACE: ImageClient(transport)})
    taken: dict[str, list[float]] = {name: [] for name in runs}
    now = max(user["hist_time"][-1] for user, _ in requests(logs, REQUESTS)) + 1.0
    for number, (user, candidates) in enumerate(requests(logs, REQUESTS)):
        for name, scorer in scorers.items():
            started = time.perf_counter()
            scorer.score(user, candidates, now_s=now)
            if number >= WARM:
                taken[name].append(1e3 * (time.perf_counter() - started))
    return {name: statistics.median(times) for name, times in taken.items()}
