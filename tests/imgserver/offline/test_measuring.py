"""What embedding costs here is measured with the real parts; no test says how much it is."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from crossmedia.cli import crossmedia
from crossmedia.errors import BadInput
from crossmedia.imgserver.offline import measuring
from crossmedia.imgserver.offline.measuring import by_bytes, decode_seconds, image_seconds, made, measure
from crossmedia.imgserver.operations.planning import Sizes, make_plan
from crossmedia.imgserver.vision.cost import EmbeddingCost
from crossmedia.imgserver.vision.decode import ImageLimits, Preprocessing
from crossmedia.imgserver.vision.decoders import Decoders
from crossmedia.imgserver.vision.engines import FeatureArray, Pictures
from crossmedia.imgserver.vision.photo_source import PhotoSource

SLEEP_S = 0.01


class SleepingEngine:
    """A CNN that sleeps."""

    name, batch, in_flight = "sleep", 8, 1

    def __init__(self) -> None:
        self.images = 0

    def run(self, pictures: Pictures) -> FeatureArray:
        self.images += len(pictures)
        time.sleep(SLEEP_S * len(pictures))
        return np.zeros((len(pictures), 4), dtype=np.float32)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few and short rounds."""
    for name, value in {
        "ROUNDS": 1,
        "FIRST": 4,
        "RUN": 4,
        "RUNS": 1,
        "OWN_PHOTOS": 2,
        "SAMPLE": 16,
        "SIDES": (200, 500),
    }.items():
        monkeypatch.setattr(measuring, name, value)


@pytest.mark.usefixtures("short")
def test_an_engine_that_sleeps_takes_the_clock_and_not_the_cores() -> None:
    engine = SleepingEngine()
    assert image_seconds(engine, 8, time.perf_counter) >= SLEEP_S
    assert engine.images % engine.batch == 0
    assert image_seconds(engine, 8, time.process_time) < SLEEP_S


@pytest.mark.usefixtures("short")
def test_decoding_is_measured_in_seconds_of_the_processes_that_decode() -> None:
    how, photo = Preprocessing(), made(500, 0)
    with Decoders(ImageLimits(), workers=2) as decoders:
        assert decoders.cpu_s() == 0
        assert decode_seconds(decoders, [photo], how) > 0
        before = decoders.cpu_s()
        assert decoders.cpu_s() == before > 0  # nobody decodes now
        decoders.pixels(photo, how)
        assert decoders.cpu_s() > before


@pytest.mark.usefixtures("short")
def test_photos_of_our_own_are_measured_by_size_and_planned_with() -> None:
    done = CliRunner().invoke(crossmedia, ["imgserver", "plan", "--measure", "--json", "--images=1e8", "--rows=1e9"])
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    measured = said["measured"]
    assert [rate["photos"] for rate in measured["decode"]] == [f"{side} x {side}" for side in measuring.SIDES]
    cost = EmbeddingCost(**measured["cost"])
    of_500 = measured["decode"][measuring.SIDES.index(500)]
    assert cost.decode_s == pytest.approx(1 / of_500["photos_per_core_s"])
    assert cost.cnn_s == pytest.approx(1 / measured["cnn_images_per_core_s"])
    assert cost.own_s == pytest.approx(measured["own_cpu_us"] / 1e6)
    plan = make_plan(Sizes(10**8, 10**9), cost)
    assert said["embed_photos_s"] == pytest.approx(plan.embed_photos_s)
    assert said["embed_machines"] == plan.embed_machines


@pytest.mark.usefixtures("short")
def test_a_catalogue_is_measured_as_it_is(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    files = sorted(photos.glob("*.jpg"))[:11]
    for number, file in enumerate(files):
        (folder / f"{number}.jpg").write_bytes(file.read_bytes())
    (folder / "11.jpg").write_bytes(b"no picture")
    measured = measure("efficientnet_lite0", PhotoSource(str(folder)))
    assert measured.broken == 1
    assert sum(rate.count for rate in measured.decode) == 11
    seconds = sum(rate.count / rate.photos_per_core_s for rate in measured.decode)
    assert measured.cost.decode_s == pytest.approx(seconds / 11)
    monkeypatch.setattr(measuring, "measure", lambda *_: measured)
    done = CliRunner().invoke(crossmedia, ["imgserver", "plan", "--measure", f"--catalogue={folder}"])
    assert done.exit_code == 0, done.output
    assert "1 more photos cannot be decoded" in done.stdout
    assert "images/s a core on openvino" in done.stdout
    assert "machines that embed" not in done.stdout  # there is nothing to plan for


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize(("photos_there", "word"), [(3, "8 at least"), (9, "None of 9")])
def test_too_few_photos_are_refused(tmp_path: Path, photos_there: int, word: str) -> None:
    for number in range(photos_there):
        (tmp_path / f"{number}.jpg").write_bytes(b"no picture" + bytes([number]))
    with pytest.raises(BadInput, match=word):
        measure("efficientnet_lite0", PhotoSource(str(tmp_path)))


def test_a_loaded_machine_is_said_to_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    cost = EmbeddingCost(0.001, 0.002, 0.0)
    quiet = measuring.Measured("net", 4, "openvino", 8, 3.9, [], 0, 500.0, 0.0, 0.0, cost)
    busy = measuring.Measured("net", 4, "openvino", 8, 4.0, [], 0, 500.0, 0.0, 0.0, cost)
    for measured, said in ((quiet, False), (busy, True)):
        monkeypatch.setattr(measuring, "measure", lambda *_, one=measured: one)
        done = CliRunner().invoke(crossmedia, ["imgserver", "plan", "--measure", "--json"])
        assert done.exit_code == 0, done.output
        assert ("load average of 4.0 on 8 cores" in done.stderr) is said


def test_classes_of_files_are_in_order_and_lose_none() -> None:
    classes = by_bytes([bytes(size) for size in (5_000_000, 10, 16_000, 16_001, 70_000)])
    assert {name: len(group) for name, group in classes.items()} == {
        "up to 16 KB": 2,
        "up to 64 KB": 1,
        "up to 256 KB": 1,
        "above 4,096 KB": 1,
    }
    assert next(iter(classes)) == "up to 16 KB"
