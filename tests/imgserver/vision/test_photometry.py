"""Numbers of the pixels behind those of the net: what they are, and that they come the same way everywhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from conftest import ROOT, run_command

import crossmedia
from crossmedia.errors import BadInput
from crossmedia.imgserver import open_local
from crossmedia.imgserver.client import ImageClient
from crossmedia.imgserver.vision.backbones import get_backbone
from crossmedia.imgserver.vision.decode import ImageLimits, decode
from crossmedia.imgserver.vision.engines import OpenVinoEngine
from crossmedia.imgserver.vision.machine import Machine
from crossmedia.imgserver.vision.make_engine import make_engine
from crossmedia.imgserver.vision.photometry import ANCHORS, photometry
from crossmedia.version import Version

RECIPE = "efficientnet_lite0#photometry"


def slowly(photo: npt.NDArray[np.uint8]) -> list[float]:
    """The definitions of ``photometry``, pixel by pixel."""
    high, wide = photo.shape[0] // 2, photo.shape[1] // 2
    rgb = np.array(
        [
            [photo[2 * y : 2 * y + 2, 2 * x : 2 * x + 2].reshape(4, 3).mean(axis=0) / 255 for x in range(wide)]
            for y in range(high)
        ]
    )
    grey = rgb.mean(axis=2)
    red, green, blue = rgb.reshape(-1, 3).T
    laplacian = [
        grey[y - 1, x] + grey[y + 1, x] + grey[y, x - 1] + grey[y, x + 1] - 4 * grey[y, x]
        for y in range(1, high - 1)
        for x in range(1, wide - 1)
    ]
    steep = [
        np.hypot((grey[y, x + 1] - grey[y, x - 1]) / 2, (grey[y + 1, x] - grey[y - 1, x]) / 2) > 0.1
        for y in range(1, high - 1)
        for x in range(1, wide - 1)
    ]
    border = [rgb[y, x] for y in range(high) for x in range(wide) if y in (0, high - 1) or x in (0, wide - 1)]
    background = np.median(border, axis=0)
    shares = np.histogram(np.minimum(grey * 64, 63), bins=64, range=(0, 64))[0] / grey.size
    rg, yb = red - green, (red + green) / 2 - blue
    return [
        grey.mean(),
        (red - blue).mean(),
        (green - (red + blue) / 2).mean(),
        (rgb.max(axis=2) - rgb.min(axis=2)).mean(),
        grey.std(),
        float(np.std(laplacian)),
        float(np.sqrt(rg.var() + yb.var()) + 0.3 * np.sqrt(rg.mean() ** 2 + yb.mean() ** 2)),
        float((rgb.min(axis=2) >= 0.94).mean()),
        float((np.abs(rgb - background).max(axis=2) > 0.1).mean()),
        float(np.mean(steep)),
        float(-sum(share * np.log2(share) for share in shares if share) / 6),
        float(np.corrcoef(grey.ravel(), grey[:, ::-1].ravel())[0, 1]),
    ]


def test_each_number_is_what_its_definition_says(photos: Path) -> None:
    how = get_backbone("efficientnet_lite0").preprocessing
    real = [decode((photos / f"{n:03d}.jpg").read_bytes(), how, ImageLimits())[:40, :60] for n in (3, 77, 150)]
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    white = np.full((40, 60, 3), 250, dtype=np.uint8)
    white[10:20, 20:30] = (200, 30, 60)
    found = photometry(np.stack([*real, noise, white]))
    wanted = [slowly(photo) for photo in (*real, noise, white)]
    np.testing.assert_allclose(found, wanted, atol=2e-3)  # a pixel on a limit falls to either side
    assert dict(zip(ANCHORS, found[4].tolist(), strict=True))["white background"] == pytest.approx(1 - 100 / 2400)


def test_the_simulators_three_factors_are_among_them_by_the_same_formula(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT / "examples" / "grocery")
    from shop import pixel_statistics

    how = get_backbone("efficientnet_lite0").preprocessing
    files = sorted(photos.glob("*.jpg"))[::10]
    found = photometry(np.stack([decode(file.read_bytes(), how, ImageLimits()) for file in files]))
    for name in ("brightness", "warmth", "greenness"):
        wanted = [pixel_statistics(file)[name] / 255 for file in files]
        np.testing.assert_allclose(found[:, ANCHORS.index(name)], wanted, atol=2e-3)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (2, 2), (3, 7), (5, 4)])
def test_photos_of_any_size_have_finite_numbers(shape: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, *shape, 3), dtype=np.uint8)
    found = photometry(np.concatenate([pixels, np.zeros_like(pixels), np.full_like(pixels, 255)]))
    assert found.shape == (6, len(ANCHORS))
    assert np.isfinite(found).all()
    assert photometry(pixels[:0]).shape == (0, len(ANCHORS))


def test_they_stand_behind_the_numbers_of_the_net_which_stay(photos: Path) -> None:
    plain, both = get_backbone("efficientnet_lite0"), get_backbone(RECIPE)
    assert (both.version, both.feature_dim) == (f"{plain.version}#photometry", plain.feature_dim + len(ANCHORS))
    pixels = np.stack(
        [decode((photos / f"{n:03d}.jpg").read_bytes(), both.preprocessing, ImageLimits()) for n in (1, 2)]
    )
    found = make_engine(both, None, Machine(threads=1)).run(pixels)
    np.testing.assert_array_equal(found[:, :-12], OpenVinoEngine(plain, None, Machine(threads=1)).run(pixels))
    np.testing.assert_array_equal(found[:, -12:], photometry(pixels))


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        (f"{RECIPE}#photometry", "is the last ending"),
        (f"{RECIPE}#bf16", "is the last ending"),
        ("efficientnet_lite0#nvjpeg#photometry", "takes pixels that cores decode"),
    ],
)
def test_an_ending_that_cannot_be_is_refused(recipe: str, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        get_backbone(recipe)


def test_a_tower_with_them_cannot_be_compared_with_its_words() -> None:
    assert Version.parse("hf:clip@000000000001").of_tower
    assert not Version.parse("hf:clip@000000000001#photometry").of_tower


def test_what_is_computed_on_demand_is_what_precompute_stores(photos: Path, tmp_path: Path) -> None:
    store, ids = tmp_path / "store", tmp_path / "ids.txt"
    ids.write_text("\n".join(str(n) for n in range(12)))
    run_command(
        *("imgserver", "precompute", f"--store={store}", f"--catalogue={photos}", f"--backbone={RECIPE}"),
        *(f"--ids={ids}", "--dim=4"),
    )
    with ImageClient(open_local(store, photos)) as client:
        info = client.info()
        assert (info.backbone, info.feature_dim) == (get_backbone(RECIPE).version, 1292)
        stored, computed = client.get([5]), client.get([200])
        assert computed.ok.all()
    again = crossmedia.precompute(store, photos, RECIPE, ids=[5, 200], machine=Machine(threads=1))
    assert (again.skipped, again.embedded) == (2, 0)
    with ImageClient(open_local(store), version=info.backbone) as client:
        features = client.get([5, 200]).values
    how = get_backbone(RECIPE).preprocessing
    pixels = [decode((photos / f"{n:03d}.jpg").read_bytes(), how, ImageLimits()) for n in (5, 200)]
    np.testing.assert_array_equal(features[:, -12:], photometry(np.stack(pixels)).astype(np.float16))
    assert stored.version == again.version
