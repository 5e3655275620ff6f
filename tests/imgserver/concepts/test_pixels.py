"""Numbers of the pixels for a store whose features lack them: told by probes, with how sure they are."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, copy_store, run_command

from crossmedia.concepts import ConceptCard
from crossmedia.errors import BadInput
from crossmedia.imgserver.concepts.linear import Scale
from crossmedia.imgserver.concepts.pixels import LEAST_R2, PixelNumbers, pixel_probes, read_pixels
from crossmedia.imgserver.vision.decode import ImageLimits, Preprocessing
from crossmedia.imgserver.vision.photometry import ANCHORS

TABLE = ROOT / "examples" / "grocery" / "photos.csv"


def test_what_features_hold_is_told_in_its_own_units_and_what_they_do_not_hold_is_refused() -> None:
    rng = np.random.default_rng(0)
    values = rng.standard_normal((900, 30)).astype(np.float32)
    places = np.arange(0, 900, 2)
    wanted = rng.uniform(0, 1, (450, len(ANCHORS))).astype(np.float32)
    wanted[:, 0] = 0.5 + 0.1 * values[places, 3] + 0.02 * rng.standard_normal(450)
    scaled = Scale.of(values)(values)
    concepts, numbers, refused = pixel_probes(PixelNumbers(places, wanted), scaled, np.arange(900))
    assert [concept.name for concept in concepts] == ["brightness"]
    assert LEAST_R2 < (concepts[0].r2 or 0) < 1
    assert concepts[0].photos == 450
    others = np.arange(1, 900, 2)
    told = numbers.of(scaled)[others, 0]
    assert np.corrcoef(told, values[others, 3])[0, 1] > 0.95
    assert told.mean() == pytest.approx(0.5, abs=0.05)
    assert [one.name for one in refused] == list(ANCHORS[1:])
    assert all(one.why.endswith(f"on photos left out; {LEAST_R2} is asked for") for one in refused)


def test_photos_that_cannot_be_read_are_left_out_and_too_few_are_refused(photos: Path) -> None:
    how = Preprocessing()

    def read(image_id: int) -> bytes | None:
        if image_id % 7 == 3:
            return b"no photo"
        return None if image_id % 7 == 5 else (photos / f"{image_id:03d}.jpg").read_bytes()

    found = read_pixels(np.arange(100), read, how, ImageLimits())
    assert found.places.tolist() == [n for n in range(100) if n % 7 not in (3, 5)]
    assert found.values.shape == (len(found.places), len(ANCHORS))
    with pytest.raises(BadInput, match="0 are in the catalogue and can be read"):
        read_pixels(np.arange(100), lambda image_id: None, how, ImageLimits())


def test_a_store_without_them_gets_them_by_a_catalogue(graph_cache: Path, photos: Path, tmp_path: Path) -> None:
    store, out = copy_store(graph_cache, tmp_path / "store"), tmp_path / "concepts"
    command = ["imgserver", "concepts", "build", f"--store={store}", f"--items={TABLE}", "--key=item_id"]
    command += ["--columns=coarse", f"--out={out}", "--json"]
    built = json.loads(run_command(*command, f"--catalogue={photos}").stdout)
    card = ConceptCard.from_bytes((out / "concepts.json").read_bytes())
    anchors = [card.concepts[place] for place in card.of_kind("anchor")]
    why = {one.name: one.why for one in card.refused if one.kind == "anchor"}
    assert {concept.name for concept in anchors} | why.keys() == set(ANCHORS)
    assert anchors
    assert all((concept.r2 or 0) >= LEAST_R2 for concept in anchors)
    assert built["kinds"].get("anchor") == len(anchors)
    assert "R²" in run_command("imgserver", "concepts", "show", f"--card={out}/concepts.json").stdout
    with open(TABLE, newline="") as file:
        assert sum(1 for _ in csv.reader(file)) > card.photos
    done = run_command(*command, f"--catalogue={tmp_path}", check=False)
    assert done.returncode == 2
