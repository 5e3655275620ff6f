"""Pairs of behaviours beside plain loops over what samples show; nothing of validation, test, or items held out."""

from __future__ import annotations

import itertools
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from align_samples import BY_TIME, BY_USER, DAY_S, FROM_LOG, HOUR_S, OF_THEIR_OWN, ONE_OUT, build, impressions
from hypothesis import given, settings
from hypothesis import strategies as st

from crossmedia.errors import BadInput
from crossmedia.features.reading.samples import Samples
from crossmedia.features.reading.unseen_items import SamplesWithUnseenItems
from crossmedia.trainer.align.behaviours import Training
from crossmedia.trainer.align.keys import ItemParts
from crossmedia.trainer.align.pair_options import WEIGHTS, PairOptions
from crossmedia.trainer.align.pairs import Pairs, pairs_of, some_of_each

ALL = 10**9
Liked = dict[tuple[int, int, int], tuple[int, float]]  # user, row of the item table, day -> second, weight


def item_rows(samples: Samples) -> dict[str, int]:
    return {raw: row for row, raw in enumerate(samples.items.read(["raw_item_id"])["raw_item_id"].to_pylist())}


def plain_liked(samples: Samples, weights: dict[str, float]) -> Liked:
    """What the training part's users liked, from whole rows with whole histories."""
    rows = samples.frame("train").to_pylist()
    of_item, names = item_rows(samples), samples.vocabulary.values["item_id"].to_pylist()
    actions = ["", *samples.vocabulary.values["action"].to_pylist()]
    label_of: dict[tuple[int, int, int], list[bool]] = {
        (row["user_id"], of_item[row["raw_item_id"]], row["timestamp"]): [] for row in rows
    }
    for row in rows:
        label_of[row["user_id"], of_item[row["raw_item_id"]], row["timestamp"]].append(row["label"] or row["label_buy"])
    done = {
        (row["user_id"], of_item[names[place - 1]], time, actions[action])
        for row in rows
        for place, time, action in zip(row["hist_item_id"], row["hist_time"], row["hist_action"], strict=True)
    }
    kinds = {name: weights.get(name, 1.0) for name in actions}
    for kind in kinds.keys() - weights.keys():
        own = [(user, item, time) in label_of for user, item, time, name in done if name == kind]
        good = [any(label_of.get((user, item, time), [])) for user, item, time, name in done if name == kind]
        if 2 * sum(good) < sum(own):
            kinds[kind] = 0.0
    found = [(user, item, time, kinds[kind]) for user, item, time, kind in done if kinds[kind]]
    for row in rows:
        user, item, time = row["user_id"], of_item[row["raw_item_id"]], row["timestamp"]
        if row["label"] and not any((u, i) == (user, item) and t >= time for u, i, t, _ in found[: len(done)]):
            found.append((user, item, time, max(weights.get("click", 1), row["label_buy"] * weights.get("buy", 1))))
    liked: Liked = {}
    for user, item, time, weight in sorted(found, key=lambda row: (-row[3], row[2])):
        liked.setdefault((user, item, time // DAY_S), (time, weight))
    return liked


def images(samples: Samples) -> list[set[int]]:
    """Of each item."""
    return [set(found) for found in samples.items.read(["image_id"])["image_id"].to_pylist()]


def plain_pairs(samples: Samples, options: PairOptions, space: str = "title") -> Counter[tuple[Any, ...]]:
    """User, rows of the earlier and the later item, weight and later day of each pair, whatever their images."""
    parts = ItemParts.of(samples)
    shelves = samples.items.ids["shelf"].tolist()
    usable = {
        row
        for row, found in enumerate(images(samples))
        if parts.warm[row] and (found or space == "title") and (not options.category or shelves[row])
    }
    found: Counter[tuple[Any, ...]] = Counter()
    liked = sorted(
        (user, time, item, weight)
        for (user, item, _), (time, weight) in plain_liked(samples, dict(options.weights)).items()
    )
    liked = [row for row in liked if row[2] in usable]
    for n, (user, time, item, weight) in enumerate(liked):
        before = [
            (other, w)
            for u, t, other, w in liked[:n]
            if u == user
            and time - t <= options.window_h * HOUR_S
            and (not options.category or shelves[other] == shelves[item])
        ]
        for other, w in before[-1:] if options.source == "next" else before:
            found[user, other, item, round(float(np.sqrt(w * weight)), 4), time // DAY_S] += 1
    return found


def as_counter(pairs: Pairs) -> Counter[tuple[Any, ...]]:
    return Counter(
        zip(
            pairs.users.tolist(),
            pairs.left.tolist(),
            pairs.right.tolist(),
            [round(float(w), 4) for w in pairs.weights],
            strict=True,
        )
    )


def keyed_by_item(samples: Samples, plain: Counter[tuple[Any, ...]]) -> Counter[tuple[Any, ...]]:
    """As ``as_counter`` in the space of titles, whose keys are the items' numbers."""
    raw = {row: int(name) for name, row in item_rows(samples).items()}
    found: Counter[tuple[Any, ...]] = Counter()
    for (user, left, right, weight, _), count in plain.items():
        if left != right:
            found[user, raw[left], raw[right], weight] += count
    return found


@pytest.fixture(
    scope="module",
    params=[(FROM_LOG, BY_TIME), (OF_THEIR_OWN, BY_TIME), (FROM_LOG, BY_USER), (OF_THEIR_OWN, ONE_OUT)],
)
def samples(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Samples:
    behaviours, split = request.param
    log = impressions(np.random.default_rng(3), 900, 12, 60, 20)
    return build(tmp_path_factory.mktemp("aligned"), log, 60, behaviours, split)


def test_what_users_liked_is_read_once(samples: Samples) -> None:
    for weights in ({}, WEIGHTS, {"cart": 0, "buy": 5}):
        found = Training.of(samples, weights).liked
        read = {
            (user, item, int(day)): (time, weight)
            for user, item, day, time, weight in zip(
                *(values.tolist() for values in (found.users, found.items, found.days, found.times, found.weights)),
                strict=True,
            )
        }
        assert len(read) == len(found)
        assert read == plain_liked(samples, dict(weights))
        order = list(zip(found.users.tolist(), found.times.tolist(), strict=True))
        assert order == sorted(order)


@pytest.mark.parametrize("source", ["window", "next"])
@pytest.mark.parametrize("category", ["", "shelf"])
@pytest.mark.parametrize("window_h", [0.2, 5, 48, 10_000])
def test_all_pairs_are_those_of_plain_loops(samples: Samples, source: Any, category: str, window_h: float) -> None:
    options = PairOptions(source, window_h, category, per_user_day=ALL)
    try:
        found = as_counter(pairs_of(samples, options, "title"))
    except BadInput:
        found = Counter()
    assert found == keyed_by_item(samples, plain_pairs(samples, options))


def test_no_more_of_a_user_and_day_than_asked_for(samples: Samples) -> None:
    possible = plain_pairs(samples, PairOptions())
    allowed = keyed_by_item(samples, possible)
    most = Counter[tuple[int, int]]()
    for (user, *_, day), count in possible.items():
        most[user, day] += count
    for cap in (1, 3, 20):
        pairs = pairs_of(samples, PairOptions(per_user_day=cap), "title")
        assert not as_counter(pairs) - allowed, "some pair is none, or is there too often"
        by_user = Counter(pairs.users.tolist())
        for user, count in by_user.items():
            assert count <= sum(min(cap, n) for (of, _), n in most.items() if of == user)
        again = pairs_of(samples, PairOptions(per_user_day=cap), "title")
        assert as_counter(again) == as_counter(pairs)
        assert (again.left == pairs.left).all()
    other = pairs_of(samples, PairOptions(per_user_day=1, seed=1), "title")
    assert as_counter(other) != as_counter(pairs_of(samples, PairOptions(per_user_day=1), "title"))


def test_images_of_items_are_drawn_and_never_held_out_or_equal(samples: Samples) -> None:
    parts, of_item = ItemParts.of(samples), images(samples)
    never = set().union(*itertools.compress(of_item, parts.held_out))
    assert never, "the test needs an item that is held out"
    options = PairOptions(per_user_day=ALL, hard_negatives=True)
    pairs, plain = pairs_of(samples, options, "photo"), plain_pairs(samples, options, "photo")
    allowed = {(user, a, b) for user, left, right, *_ in plain for a in of_item[left] for b in of_item[right]}
    found = list(zip(pairs.users.tolist(), pairs.left.tolist(), pairs.right.tolist(), strict=True))
    assert set(found) <= allowed
    assert all(left != right and not {left, right} & never for _, left, right in found)
    assert not set(pairs.negatives.tolist()) & never
    both = [found for found, warm in zip(of_item, parts.warm, strict=True) if warm and len(found) == 2]
    seen = {*pairs.left.tolist(), *pairs.right.tolist()}
    assert any(images <= seen for images in both), "the second image of an item is used too"


def test_hard_negatives_were_passed_over_that_day_in_that_category(samples: Samples) -> None:
    options = PairOptions(per_user_day=ALL, hard_negatives=True, category="shelf", window_h=10_000)
    pairs = pairs_of(samples, options, "title")
    raw = {row: int(name) for name, row in item_rows(samples).items()}
    of_item = item_rows(samples)
    shelf = {raw[row]: place for row, place in enumerate(samples.items.ids["shelf"].tolist())}
    liked = {(user, raw[item]) for user, item, _ in plain_liked(samples, dict(WEIGHTS))}
    days: dict[tuple[int, int], set[int]] = {}
    for user, item, day in plain_liked(samples, dict(WEIGHTS)):
        days.setdefault((user, raw[item]), set()).add(day)
    parts = ItemParts.of(samples)
    passed = {
        (row["user_id"], int(row["raw_item_id"]), row["timestamp"] // DAY_S)
        for row in samples.frame("train", ["label", "label_buy", "user_id", "raw_item_id", "timestamp"]).to_pylist()
        if not row["label"] and not row["label_buy"] and parts.warm[of_item[row["raw_item_id"]]]
    }
    passed = {row for row in passed if row[:2] not in liked}
    some = 0
    for user, right, negative in zip(pairs.users.tolist(), pairs.right.tolist(), pairs.negatives.tolist(), strict=True):
        there = {
            item for u, item, day in passed if u == user and day in days[user, right] and shelf[item] == shelf[right]
        }
        assert negative in there if there and negative != -1 else negative == -1
        some += negative != -1
    assert some > 10
    assert (pairs_of(samples, PairOptions(), "title").negatives == -1).all()


def test_neither_validation_nor_test_is_read(tmp_path: Path) -> None:
    """Other items and labels in the last 30 % of the log change no pair: what rows there say is never looked at."""
    log = impressions(np.random.default_rng(4), 600, 8, 40, 20)
    later = [
        (user, (item * 7 + 3) % 40, time, 1 - click, 0) if n >= 0.75 * len(log) else (user, item, time, click, buy)
        for n, (user, item, time, click, buy) in enumerate(log)
    ]
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    first, second = build(tmp_path / "a", log, 40), build(tmp_path / "b", later, 40)
    options = PairOptions(per_user_day=ALL)

    def named(samples: Samples) -> Counter[tuple[Any, ...]]:
        users = ["", *samples.vocabulary.values["user_id"].to_pylist()]
        found = as_counter(pairs_of(samples, options, "title"))
        return Counter({(users[user], *rest): count for (user, *rest), count in found.items()})

    assert named(first) == named(second)


def test_it_is_the_same_whichever_way_samples_are_validated(samples: Samples) -> None:
    hidden = SamplesWithUnseenItems(samples.folder)
    first, second = (pairs_of(one, PairOptions(), "photo") for one in (samples, hidden))
    assert as_counter(first) == as_counter(second)
    assert set(np.flatnonzero(ItemParts.of(hidden).held_out)) == set(np.flatnonzero(ItemParts.of(samples).held_out))


@settings(max_examples=200)
@given(st.lists(st.integers(0, 60), max_size=30), st.integers(1, 25), st.integers(0, 9))
def test_some_of_each(sizes: list[int], most: int, seed: int) -> None:
    found = some_of_each(np.array(sizes, dtype=np.int64), most, np.random.default_rng(seed)).tolist()
    for size in sizes:
        own, found = found[: min(size, most)], found[min(size, most) :]
        assert own == sorted(set(own))
        assert all(0 <= number < size for number in own)
    assert not found


def test_some_of_each_are_drawn_alike() -> None:
    drawn = some_of_each(np.full(20_000, 7), 3, np.random.default_rng(0))
    share = np.bincount(drawn, minlength=7) / 20_000
    assert np.abs(share - 3 / 7).max() < 0.015  # four standard deviations are .014
    twice = drawn.reshape(-1, 3)
    together = np.bincount(twice[:, 0] * 7 + twice[:, 2], minlength=49).reshape(7, 7)
    assert together[0, 6] / 20_000 == pytest.approx(5 / 35, abs=0.012), "0 and 6 and any other of the 35 draws"


@settings(max_examples=12)
@given(st.integers(0, 10_000), st.sampled_from(["", "shelf"]), st.sampled_from(["window", "next"]))
def test_any_log_of_a_few_users(seed: int, category: str, source: Any) -> None:
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
        samples = build(Path(folder), impressions(rng, 120, 3, 16, 3), 16, [FROM_LOG, OF_THEIR_OWN][seed % 2])
        options = PairOptions(source, float(rng.choice([1, 24, 100])), category, per_user_day=ALL)
        plain = keyed_by_item(samples, plain_pairs(samples, options))
        if plain:
            assert as_counter(pairs_of(samples, options, "title")) == plain
        else:
            with pytest.raises(BadInput, match="has no pair"):
                pairs_of(samples, options, "title")


@pytest.mark.parametrize(
    ("options", "space", "words"),
    [
        (PairOptions(per_user_day=0), "photo", "per_user_day is 0"),
        (PairOptions(window_h=0), "photo", "window_h is 0"),
        (PairOptions(window_h=float("nan")), "photo", "window_h is nan"),
        (PairOptions(weights={"buy": -1}), "photo", "'buy' is -1"),
        (PairOptions(weights={"buy": float("nan")}), "photo", "'buy' is nan"),
        (PairOptions(weights={"buy": 1e300}), "photo", "'buy' is 1e[+]300; it must be a number from 0 to 1,000,000"),
        (
            PairOptions(weights={"cilck": 3}),
            "photo",
            r"a weight for 'cilck', which is no kind .* Did you mean 'click'\?",
        ),
        (PairOptions(weights={"buy": 0, "click": 0, "cart": 0}), "photo", "has no pair"),
        (PairOptions(category="shelves"), "photo", "there are: shelf.*'shelf'"),
        (PairOptions(source="swing"), "photo", "source is 'swing'"),  # type: ignore[arg-type]
        (PairOptions(), "photos", "there are: photo, title.*'photo'"),
    ],
)
def test_what_does_not_fit_is_refused(samples: Samples, options: PairOptions, space: str, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        pairs_of(samples, options, space)
