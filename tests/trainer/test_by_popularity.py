"""What a model gains by how often an item was shown: against AUCs that are counted apart, and in words."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from sklearn.metrics import roc_auc_score

from crossmedia.features.reading.samples import Samples
from crossmedia.features.schema import load_schema
from crossmedia.features.writing.build import build_samples
from crossmedia.trainer.baselines import ITEM_USER, baselines
from crossmedia.trainer.cli import trainer
from crossmedia.trainer.intervals import predictions
from crossmedia.trainer.report.by_popularity import ByPopularity, Group, by_popularity
from crossmedia.trainer.report.figures import auc_span, is_cut, learning_curves, svg
from crossmedia.trainer.report.shown_runs import ShownRuns, compared, run_folders, shown_runs

SCHEMA = """
[log]
path = "impressions.csv"
user = "user"
item = "item"
time = "time"
labels = { click = "click" }
[split]
method = "time"
test = 0.3
validation = 0.1
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log whose items differ in popularity, the last ten of which are only in its newest part; two runs on it."""
    folder, rng = tmp_path_factory.mktemp("shop"), np.random.default_rng(3)
    likes = rng.random(60) * 0.8
    with open(folder / "impressions.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["user", "item", "time", "click"])
        for n in range(4000):
            item = 50 + int(rng.integers(10)) if n > 2900 and rng.random() < 0.3 else int(50 * rng.random() ** 2)
            writer.writerow([f"u{rng.integers(40)}", f"i{item}", 1000 + n, int(rng.random() < likes[item])])
    (folder / "samples.toml").write_text(SCHEMA)
    build_samples(load_schema(folder / "samples.toml"), folder / "samples")
    for name, epochs in (("short", 1), ("long", 3)):
        command = ["fit", f"--samples={folder / 'samples'}", "--model=lr", "--no-images", f"--epochs={epochs}"]
        done = CliRunner().invoke(trainer, [*command, "--patience=9", f"--out={folder / 'runs' / name}"])
        assert done.exit_code == 0, done.output
    return folder


@pytest.fixture(scope="module")
def shown(made: Path) -> ShownRuns:
    return shown_runs(made / "runs" / "short")


def rows_of(made: Path) -> tuple[Any, Any]:
    samples = Samples(made / "samples")
    frame = samples.frame("test", ["label", "item_id"])
    items = frame["item_id"].to_numpy()
    return frame["label"].to_numpy(), np.where(items == 0, 0, samples.item_counts()[items])


def of_group(group: Group, counts: Any) -> Any:
    """The rows that the name of a group says."""
    if group.name == "never shown in training":
        return counts == 0
    low, high = (int(number.replace(",", "")) for number in re.findall(r"[\d,]+", group.name))
    return (counts >= low) & (counts <= high)


def test_groups_are_all_rows_and_their_gains_are_differences_of_auc(made: Path, shown: ShownRuns) -> None:
    found, samples = shown.popularity, Samples(made / "samples")
    labels, counts = rows_of(made)
    (line,) = shown.comparison["runs"]
    own = predictions(line, made / "runs" / "short", labels)
    mean = baselines(samples, "click")[ITEM_USER]
    assert own is not None
    assert found.beside == "the item's and the user's mean"
    assert [group.name.split(" ")[0] for group in found.groups] == ["never", "shown", "shown", "shown", "shown"]
    assert sum(group.rows for group in found.groups) == len(labels)
    for group in found.groups:
        here = of_group(group, counts)
        assert group.rows == here.sum()
        gain = roc_auc_score(labels[here], own[here]) - roc_auc_score(labels[here], mean[here])
        assert group.gain == pytest.approx(gain, abs=1e-9)
        assert group.low < group.gain < group.high
    assert found.groups[0].items == 10
    assert f"{100 * found.groups[0].gain:+.1f}</b>" in shown.gain
    assert shown.title == "What lr ids only learned"


def test_beside_ids_only_pairs_of_seeds_are_compared(made: Path) -> None:
    """The run of more epochs stands for one with images: what counts is which predictions are compared."""
    (ids,), (other,) = (compared(made / "runs" / name)["runs"] for name in ("short", "long"))
    images = {**other, "images": True, "vector_version": "net@1/16"}
    runs = [(ids, made / "runs" / "short"), (images, made / "runs" / "long")]
    row = {"model": "lr", "spaces": ["image"]}
    found = by_popularity(Samples(made / "samples"), runs, row)
    labels, counts = rows_of(made)
    first, second = (predictions(line, folder, labels) for line, folder in reversed(runs))
    assert first is not None
    assert second is not None
    assert found.beside == "ids only"
    for group in found.groups:
        here = of_group(group, counts)
        gain = roc_auc_score(labels[here], first[here]) - roc_auc_score(labels[here], second[here])
        assert group.gain == pytest.approx(gain, abs=1e-9)
    elsewhere = by_popularity(
        Samples(made / "samples"), [({**ids, "samples": "others"}, runs[0][1])], row | {"spaces": []}
    )
    assert elsewhere.absent == elsewhere.sentence == "The runs are of other samples than these."
    away = by_popularity(Samples(made / "samples"), [(ids, made / "nowhere")], row | {"spaces": []})
    assert away.absent == "The predictions of the runs are not in their folders."


def group(name: str, gain: float, half: float) -> Group:
    return Group(name, 500, 20, gain, gain - half, gain + half)


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ([("new", 0.1, 0.05), ("old", 0.01, 0.02)], "It gains on items new; elsewhere the difference may be chance."),
        ([("new", 0.1, 0.05), ("old", -0.1, 0.02)], "It gains on items new and it loses on items old."),
        ([("new", 0.1, 0.05), ("old", 0.2, 0.02)], "It gains on items of every group, most on those old."),
        ([("new", 0.1, 0.2), ("old", -0.1, 0.2)], "On no group of items can users, items and seeds tell"),
    ],
)
def test_the_sentence_says_where_it_gains_and_loses(groups: list[tuple[str, float, float]], said: str) -> None:
    assert said in ByPopularity("ids only", tuple(group(*one) for one in groups)).sentence


def test_folders_of_runs_are_found(made: Path) -> None:
    assert sorted(run_folders(made)) == [made / "runs" / "long", made / "runs" / "short"]
    assert run_folders(made / "samples") == []


def line_of(seed: int, *aucs: float) -> dict[str, Any]:
    curve = [{"epoch": epoch, "validation_auc": auc} for epoch, auc in enumerate(aucs, 1)]
    return {"model": "din", "images": False, "vector_version": "", "options": {}, "seed": seed, "curve": curve}


def test_curves_begin_where_there_is_something_to_see() -> None:
    lines = [line_of(0, 0.5, 0.745, 0.75), line_of(1, 0.52, 0.74, 0.755)]
    span = auc_span(lines)
    assert span is not None
    assert 0.70 < span[0] < 0.74
    assert span[1] > 0.755
    assert is_cut(lines, span)
    titles = re.findall(r"<title>([^<]*)</title>", svg(learning_curves(lines, span), "Learning curves"))
    assert titles == [
        f"ids only, seed {seed}: {auc:.4f}" for seed, auc in ((0, 0.745), (0, 0.75), (1, 0.74), (1, 0.755))
    ]
    slow = [line_of(0, 0.744, 0.75)]
    span = auc_span(slow)
    assert span is not None
    assert span[0] < 0.744  # nothing is cut that is near
    assert not is_cut(slow, span)
    overfitted = [line_of(0, 0.5, 0.79, 0.71, 0.70)]
    span = auc_span(overfitted)
    assert span is not None
    assert 0.6 < span[0] < 0.70  # only what came before the best epoch is cut
    assert is_cut(overfitted, span)
    assert auc_span([line_of(0)]) is None
