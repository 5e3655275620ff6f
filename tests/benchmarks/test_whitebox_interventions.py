"""What renderings move, and the bank that was not told the truth, on features that are made up."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.whitebox_bank import Bank, hidden_anchors, hidden_bank, pca_bank, random_bank, strict_bank
from benchmarks.whitebox_interventions import Pairs, moved, what_if
from benchmarks.whitebox_rendering import FACTORS, Rendered, single_steps
from benchmarks.whitebox_truth import Truth
from crossmedia.concepts import CONCEPTS, Concept, ConceptCard
from crossmedia.imgserver.concepts.items import Items, Trait
from crossmedia.imgserver.concepts.sample import Sample
from crossmedia.imgserver.head import linear_head
from crossmedia.imgserver.storage.records import Space
from crossmedia.imgserver.vision.photometry import ANCHORS

WIDTH = 40
PLACES = [ANCHORS.index(name) for name in FACTORS]
FEATURES = Space(1, "net@0123456789ab#photometry", "feature", WIDTH + len(ANCHORS), "float16", 0, "net#photometry")


def made_up(n: int = 150) -> tuple[Sample, Rendered]:
    """Photos whose features say the anchors with noise, and what goes with warmth in photos goes with no rendering."""
    rng = np.random.default_rng(0)
    anchors = rng.standard_normal((n, len(ANCHORS)))
    anchors[:, ANCHORS.index("saturation")] = anchors[:, ANCHORS.index("warmth")] + 0.1 * rng.standard_normal(n)
    mixed = rng.standard_normal((len(ANCHORS), WIDTH - 1))
    around = 0.5 * rng.standard_normal((n, WIDTH - 1))
    goes_with = anchors[:, [ANCHORS.index("warmth")]] + 0.1 * rng.standard_normal((n, 1))  # such as being a fruit
    values = np.concatenate([anchors @ mixed + around, 4 * goes_with, anchors], axis=1).astype(np.float32)
    rows = np.sort(rng.choice(n, n // 4, replace=False))
    items = Items(np.arange(n), np.arange(n) // 2, (Trait("probe", "class", "a"),), (rows,))
    changes = rng.normal(0, 1, (n, 6, 3))
    after = np.repeat(anchors[:, None], 6, axis=1)
    after[:, :, PLACES] += changes
    features = np.concatenate(
        [after @ mixed + around[:, None], np.repeat(4 * goes_with[:, None], 6, axis=1), after], axis=2
    )
    rendered = Rendered(
        np.repeat(np.arange(n), 6), changes.reshape(-1, 3), features.reshape(n * 6, -1).astype(np.float32)
    )
    return Sample(FEATURES, values, items), rendered


def test_what_goes_with_a_factor_is_hidden_too() -> None:
    sample, _ = made_up()
    hidden = {ANCHORS[place] for place in hidden_anchors(sample.values[:, -len(ANCHORS) :])}
    assert hidden == {*FACTORS, "saturation"}


def test_the_hidden_bank_takes_nothing_of_what_is_hidden() -> None:
    sample, rendered = made_up()
    bank = hidden_bank(sample, rendered)
    changed = sample.values.copy()
    places = [WIDTH + ANCHORS.index(name) for name in (*FACTORS, "saturation")]
    changed[:, places] = 77
    assert np.array_equal(bank.of(changed), bank.of(sample.values))
    changed[:, WIDTH + ANCHORS.index("symmetry")] = 77
    assert not np.array_equal(bank.of(changed), bank.of(sample.values))
    told = {concept.name: concept.r2 for concept in bank.card.concepts}
    assert told["warmth"] is not None
    assert told["warmth"] > 0.8
    assert told["symmetry"] is None
    assert bank.card.head == bank.head.name


def test_probes_that_saw_renderings_follow_the_photo_and_not_what_goes_with_it() -> None:
    sample, rendered = made_up()
    bank = hidden_bank(sample, rendered)
    before = np.repeat(sample.values, 1, axis=0)
    after = rendered.features[::6]
    change = (bank.of(after) - bank.of(before))[:, bank.card.place("warmth")]
    assert np.corrcoef(change, rendered.change[::6, 0])[0, 1] > 0.9


def test_the_strict_bank_names_nothing_of_it() -> None:
    sample, _ = made_up()
    bank = strict_bank(sample)
    assert not {*FACTORS, "saturation"} & set(bank.card.names)
    assert {"symmetry", "entropy"} <= set(bank.card.names)
    assert bank.of(sample.values).shape == (150, len(bank.card))


def test_controls_are_as_wide_and_take_no_anchor() -> None:
    sample, _ = made_up()
    like = strict_bank(sample)
    for bank in (random_bank(sample, like, 0), pca_bank(sample, like)):
        changed = sample.values.copy()
        changed[:, WIDTH:] = 5
        assert bank.of(sample.values).shape == (150, len(like.card))
        assert np.array_equal(bank.of(changed), bank.of(sample.values))


def measuring_bank() -> Bank:
    """Concepts that are the anchors themselves, of which greenness takes a quarter of warmth."""
    weight = np.concatenate([np.zeros((3, WIDTH)), np.eye(len(ANCHORS))[PLACES]], axis=1)
    weight[2, WIDTH + ANCHORS.index("warmth")] = 0.25
    head = linear_head(CONCEPTS, weight, np.zeros(3))
    return Bank(head, ConceptCard(head.name, FEATURES.name, 9, 9, tuple(Concept(n, "anchor") for n in FACTORS)))


def pairs() -> Pairs:
    deviations = np.array([2.0, 4.0, 8.0])
    steps = single_steps(deviations).colour
    features = np.zeros((2, len(steps), WIDTH + len(ANCHORS)), dtype=np.float32)
    features[:, :, [WIDTH + place for place in PLACES]] = steps / 255
    photo = np.repeat([4, 7], len(steps))
    return Pairs.of(Rendered(photo, np.tile(steps, (2, 1)), features.reshape(len(photo), -1)), deviations)


def test_moves_are_told_by_factor() -> None:
    found = moved(measuring_bank(), pairs(), np.array([2.0, 4.0, 8.0]) / 255)
    assert [one.right for one in found] == [1, 1, 1]
    assert [one.own for one in found] == pytest.approx([1, 1, 1], abs=1e-2)
    assert [one.others for one in found] == pytest.approx([0.0625, 0, 0], abs=1e-2)  # a quarter, of 8 beside 2
    assert found[0].most[0][0] == "greenness"


def test_the_pixels_say_what_was_moved() -> None:
    own = pairs()
    assert len(own.photo) == 18
    assert np.abs(own.measured()).argmax(axis=1).tolist() == own.factor.tolist()
    assert own.measured()[own.factor == 1].max() == pytest.approx(4, rel=1e-3)


def test_the_uplift_of_a_model_that_knows_the_truth_has_slope_one() -> None:
    scale, taste = np.array([2.0, 4.0, 8.0]), np.array([0.8, 0.5, -0.6])
    truth = Truth(
        tuple(FACTORS), np.arange(9), np.zeros((9, 3)), scale, taste, {"a": 4, "b": 7, "c": 1}, frozenset("ab")
    )
    bank = measuring_bank()
    bank.head.linear[0].weight.data[2, WIDTH + ANCHORS.index("warmth")] = 0
    slopes = np.tile(255 * taste / scale, (3, 1))
    found = what_if(bank, pairs(), truth, slopes, ["a", "b", "c"])
    assert found.slope == pytest.approx(1, abs=1e-2)
    assert found.correlation == pytest.approx(1, abs=1e-3)
    assert what_if(bank, pairs(), truth, slopes / 2, ["a", "b", "c"]).slope == pytest.approx(0.5, abs=1e-2)
