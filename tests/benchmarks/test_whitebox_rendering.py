"""Renderings change one thing, and are embedded as photos are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from benchmarks.whitebox_rendering import (
    FACTORS,
    LEAST_PART,
    STEPS,
    Changes,
    embedded,
    random_changes,
    rendered,
    single_steps,
)
from crossmedia.imgserver.vision.photometry import ANCHORS, photometry

GROCERY = Path(__file__).parents[2] / "examples" / "grocery"


def measured(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """What the simulator measures, in grey levels."""
    red, green, blue = pixels.reshape(-1, 3).astype(np.float64).mean(axis=0)
    return np.array([red - blue, (red + green + blue) / 3, green - (red + blue) / 2])


@pytest.mark.parametrize("factor", range(3))
def test_a_step_moves_one_factor_and_no_other(factor: int) -> None:
    pixels = np.random.default_rng(0).integers(60, 190, (16, 16, 3), dtype=np.uint8)
    change = np.eye(3)[factor] * 24
    moved = measured(rendered(pixels, change)) - measured(pixels)
    assert moved == pytest.approx(change, abs=1)  # rounding


def test_pixels_stay_pixels() -> None:
    pixels = np.array([[[250, 250, 250], [3, 3, 3]]], dtype=np.uint8)
    assert rendered(pixels, np.array([0, 90, 0.0])).tolist() == [[[255] * 3, [93] * 3]]
    assert rendered(pixels, np.array([0, -90, 0.0])).tolist() == [[[160] * 3, [0] * 3]]


def test_steps_are_of_one_factor_each() -> None:
    steps = single_steps(np.array([30.0, 14, 15]))
    assert steps.colour.shape == (1 + 3 * len(STEPS), 3)
    assert (steps.colour != 0).sum(axis=1).tolist() == [0] + [1] * 9
    assert steps.colour[3].tolist() == [30, 0, 0]
    assert steps.part.tolist() == [[0, 1, 0, 1]] * 10


def test_half_of_the_random_renderings_are_of_a_part() -> None:
    changes = random_changes(40, np.full(3, 14.0), np.random.default_rng(0))
    shares = (changes.part[:, 1] - changes.part[:, 0]) * (changes.part[:, 3] - changes.part[:, 2])
    assert shares[:20].tolist() == [1] * 20
    assert (shares[20:] >= LEAST_PART).all()
    assert shares[20:].max() < 1
    assert changes.part.min() >= 0
    assert changes.part.max() <= 1
    assert changes.colour[0].tolist() == [0, 0, 0]


def test_a_part_is_rendered_as_it_is_in_the_photo(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(60, 190, (16, 20, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "1.png")
    photos = dict.fromkeys(range(17), tmp_path / "1.png")
    changes = Changes(np.zeros((1, 3)), np.array([[0.25, 0.75, 0.1, 0.6]]))
    embedded(photos, dict.fromkeys(photos, changes), tmp_path / "made")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "made" / "photos" / "3.png")), pixels[4:12, 2:12])


def test_renderings_go_through_the_pipeline(tmp_path: Path) -> None:
    photos = {place: GROCERY / "images" / f"{place:03d}.jpg" for place in range(18)}
    colours = {place: random_changes(2, np.full(3, 14.0), np.random.default_rng(place)).colour for place in photos}
    changes = {place: Changes.of_whole(colour) for place, colour in colours.items()}
    found = embedded(photos, changes, tmp_path)
    assert found.photo.tolist() == sorted([*photos, *photos])
    assert found.features.shape == (36, 1280 + len(ANCHORS))
    for row in (0, 1):  # the photo as it is, and changed: both as the pixels say
        pixels = np.asarray(Image.open(photos[0]).convert("RGB"))
        measured_in_store = dict(zip(ANCHORS, found.features[row, -len(ANCHORS) :].tolist(), strict=True))
        truth = measured(rendered(pixels, found.change[row])) / 255
        assert [measured_in_store[name] for name in FACTORS] == pytest.approx(truth.tolist(), abs=0.02)
    again = embedded(photos, changes, tmp_path)
    assert np.array_equal(again.features, found.features)


def test_photometry_and_the_simulator_measure_the_same() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (1, 224, 224, 3), dtype=np.uint8)
    found = dict(zip(ANCHORS, photometry(pixels)[0].tolist(), strict=True))
    assert [found[name] for name in FACTORS] == pytest.approx((measured(pixels[0]) / 255).tolist(), abs=1e-3)
