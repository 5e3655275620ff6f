"""A plan is what one would work out by hand, and docs/capacity.md shows the plans and constants that there are."""

from __future__ import annotations

import json
import math

import pytest
from conftest import ROOT, run_command

from crossmedia.imgserver.commands.planning import LABELS, shown
from crossmedia.imgserver.operations import planning
from crossmedia.imgserver.operations.planning import Sizes, make_plan
from crossmedia.imgserver.vision.cost import EmbeddingCost

SHOWN = [(1e6, 1e9), (1e8, 1e9), (1e10, 1e9), (1e6, 1e11), (1e8, 1e11), (1e10, 1e11)]
CONSTANTS = {
    "SERVER_US_PER_VECTOR": "server, CPU µs a vector",
    "SAMPLES_PER_CORE_S": "samples/s a core",
    "HEAD_SERVER_US_PER_SAMPLE": "server, CPU µs a sample of a head that learns",
    "HEAD_TRAINER_US_PER_SAMPLE": "its trainer",
    "BYTES_PER_ROW": "bytes a row of samples",
    "BYTES_PER_ITEM": "bytes an item of the item table",
    "IMAGES_PER_ROW": "different images a row, in batches of 1,024",
    "TABLE_BYTES_PER_IMAGE": "bytes an image of the table",
}


def capacity_table() -> str:
    """The table of docs/capacity.md."""
    plans = [make_plan(Sizes(int(images), int(rows))) for images, rows in SHOWN]
    heads = [f"10^{math.log10(images):.0f} images, 10^{math.log10(rows):.0f} rows" for images, rows in SHOWN]
    lines = ["| | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for name, label in LABELS.items():
        lines.append(f"| {label} | " + " | ".join(shown(getattr(plan, name)) for plan in plans) + " |")
    return "\n".join(lines)


def test_the_documented_plans_are_the_plans() -> None:
    assert capacity_table() in (ROOT / "docs" / "capacity.md").read_text()


@pytest.mark.parametrize("name", CONSTANTS)
def test_the_documented_constants_are_the_constants(name: str) -> None:
    assert f"| {CONSTANTS[name]} | {getattr(planning, name):g} |" in (ROOT / "docs" / "capacity.md").read_text()


@pytest.mark.parametrize(
    ("field", "label"),
    [
        ("decode_s", "decoding, CPU ms a photo of 500 x 500"),
        ("cnn_s", "EfficientNet-Lite0, CPU ms a photo"),
        ("own_s", "the process between them, CPU ms a photo"),
    ],
)
def test_the_documented_cost_of_a_photo_is_the_cost(field: str, label: str) -> None:
    line = f"| {label} | {1e3 * getattr(planning.COST, field):g} | `crossmedia imgserver plan --measure` |"
    assert line in (ROOT / "docs" / "capacity.md").read_text()


def test_a_plan_by_hand() -> None:
    cost = EmbeddingCost(decode_s=0.002, cnn_s=0.0075, own_s=0.0005)  # 100 photos/s a core
    images = 100 * 3600 * 40
    plan = make_plan(Sizes(images, 1000, cores=4, embed_hours=5), cost)
    assert plan.embed_core_hours == pytest.approx(40)
    assert plan.embed_photos_s == pytest.approx(400)
    assert plan.embed_machines == 2
    assert plan.samples_tb == pytest.approx((1000 * 29.3 + images * 13.9) / 1e12)
    learned = make_plan(Sizes(10**6, 10**9, head=(256, 64, 12)))
    parameters = 1280 * 256 + 256 + 256 * 64 + 64 + 64 * 12 + 12
    vectors = 15_307 * (8 + 1 + 48 + 8 + 48)
    assert learned.step_mb == pytest.approx((vectors + learned.servers * 8 * parameters) / 1e6)
    seconds = 10**9 * 108e-6
    assert learned.servers == math.ceil(seconds / 86400 / 32 / planning.LOAD)


def test_cores_are_not_multiplied_beyond_what_one_process_allows() -> None:
    cost = EmbeddingCost(decode_s=0.001, cnn_s=0.0085, own_s=0.0005)
    plans = [make_plan(Sizes(10**9, 1, cores=cores), cost) for cores in (8, 16, 32, 1024)]
    assert [plan.embed_photos_s for plan in plans] == pytest.approx([800, 1600, 2000, 2000])
    assert plans[-1].embed_machines == math.ceil(10**9 / 2000 / 86400)
    assert ["one process" in " ".join(plan.notes) for plan in plans] == [False, False, True, True]


def test_more_is_never_less() -> None:
    small, large = make_plan(Sizes(10**6, 10**9)), make_plan(Sizes(10**9, 10**11))
    for name in LABELS:
        assert getattr(small, name) <= getattr(large, name)
    assert not small.notes
    assert any("Embedding needs" in note for note in large.notes)


def test_the_command_says_it() -> None:
    done = run_command("imgserver", "plan", "--images=1e10", "--rows=1e11", "--json")
    assert json.loads(done.stdout)["servers"] == make_plan(Sizes(10**10, 10**11)).servers
    assert "image servers" in run_command("imgserver", "plan", "--images=1_000_000", "--rows=1e9").stdout


@pytest.mark.parametrize("images", ["many", "0", "1e99", "-5"])
def test_a_count_that_is_none_is_refused(images: str) -> None:
    done = run_command("imgserver", "plan", f"--images={images}", "--rows=1e9", check=False)
    assert done.returncode == 2
    assert repr(images) in done.stderr


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ((), "--images"),
        (("--images=1e6",), "--rows"),
        (("--measure", "--rows=1e6"), "--images"),
        (("--images=1e6", "--rows=1e6", "--catalogue=photos"), "--measure"),
        (("--images=1e6", "--rows=1e6", "--backbone=torchvision:resnet50"), "--measure"),
    ],
)
def test_what_would_be_passed_over_is_refused(options: tuple[str, ...], word: str) -> None:
    done = run_command("imgserver", "plan", *options, check=False)
    assert done.returncode == 2
    assert word in done.stderr
