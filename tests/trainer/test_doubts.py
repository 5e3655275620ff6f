"""A model that is no better than a constant says so, and one that is says nothing."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from made_samples import SCHEMA

from crossmedia.features.schema import load_schema
from crossmedia.features.writing.build import build_samples
from crossmedia.trainer.cli import trainer
from crossmedia.trainer.commands.options import metrics_line
from crossmedia.trainer.doubts import doubts, of_one_class
from crossmedia.trainer.fit import FitConfig, fit
from crossmedia.trainer.metrics import auc, base_log_loss, log_loss
from crossmedia.trainer.report import summary
from crossmedia.trainer.report.facts import headline
from crossmedia.trainer.report.impressions import judgement
from crossmedia.trainer.runs.state import Progress
from crossmedia.trainer.settings import suited

PLAIN = SCHEMA[: SCHEMA.index("[items]")] + SCHEMA[SCHEMA.index("[split]") :]


def found(**values: Any) -> dict[str, Any]:
    given = {"rows": 1000, "positives": 300, "auc": 0.7, "gauc": 0.7, "gauc_users": 9}
    return {**given, "log_loss": 0.55, "base_log_loss": 0.61, **values}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, []),
        ({"auc": 0.43}, [r"0.4300, is below .5: the model orders rows worse than a constant"]),
        (
            {"auc": 0.49},
            ["0.4900, is below .5, and no better than that of a constant", "alone gives .5 ± 0.039"],
        ),
        ({"auc": 0.52}, ["0.5200, is no better than that of a constant", "1,000 rows with 300 positives"]),
        ({"auc": 0.52, "rows": 100_000, "positives": 30_000}, []),
        ({"log_loss": 0.61}, ["0.6100, is no better than that of a constant", "30.0%", "no probabilities"]),
        ({"rows": 50, "positives": 0, "auc": None}, ["All 50 rows of the test part are negative: they have no AUC."]),
        ({"rows": 50, "positives": 50, "auc": None}, ["All 50 rows of the test part are positive"]),
        ({"rows": 0}, []),
    ],
)
def test_what_speaks_against_a_model(values: dict[str, Any], said: list[str]) -> None:
    text = " ".join(doubts("test", found(**values)))
    assert bool(text) == bool(said)
    for part in said:
        assert part in text


def test_metrics_of_former_releases_are_not_judged() -> None:
    assert doubts("test", {"rows": 10, "auc": 0.4, "log_loss": 0.9}) == []
    assert of_one_class("test", {"rows": 10, "auc": 0.4}) == ""
    former = {"rows": 1, "auc": 0.4, "gauc": None, "gauc_users": 0, "log_loss": 0.9}
    assert metrics_line(former) == (
        "AUC 0.4000 (a constant: .5), GAUC - (a constant: .5; 0 users), log loss 0.9000, 1 row"
    )


def test_a_constant_stands_beside_each_metric() -> None:
    assert metrics_line(found(users=1200)) == (
        "AUC 0.7000 (a constant: .5), GAUC 0.7000 (a constant: .5; 9 of 1,200 users), log loss 0.5500 (a constant: "
        "0.6100), 1,000 rows"
    )


def test_samples_a_second_leave_the_start_out() -> None:
    """Of the first step of each process; a run of one step has nothing else."""
    assert Progress(rows=1000, seconds=12.0, first_rows=100, first_s=3.0).rows_per_s == 100
    assert Progress(rows=100, seconds=4.0, first_rows=100, first_s=3.0).rows_per_s == 25


def test_chance_is_what_models_that_know_nothing_have() -> None:
    """Of 400 of them on 300 rows one in twenty is outside of what the sentence calls chance."""
    rng = np.random.default_rng(0)
    labels = (rng.random(300) < 0.3).astype(np.float32)
    aucs = [auc(labels, rng.random(300)) for _ in range(400)]
    inside = [value for value in aucs if doubts("test", found(auc=value, rows=300, positives=int(labels.sum())))]
    above = [value for value in aucs if value > 0.5 and value not in inside]
    assert 1 <= len(above) <= 20  # 2.5 % of 400 above, and all below are said


def test_the_constant_is_the_best_one() -> None:
    labels = np.array([1, 0, 0, 0, 1], dtype=np.float32)
    best = base_log_loss(labels)
    assert best == pytest.approx(-(0.4 * np.log(0.4) + 0.6 * np.log(0.6)))
    assert all(log_loss(labels, np.full(5, p)) >= best for p in (0.3, 0.39, 0.41, 0.5))
    assert base_log_loss(np.zeros(4)) == pytest.approx(0.0, abs=1e-6)


def clicks(folder: Path, click: Any, rows: int = 1500) -> Path:
    """Samples whose clicks a function of the row's number and item says."""
    rng = np.random.default_rng(1)
    with open(folder / "impressions.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["user", "item", "time", "click"])
        for n in range(rows):
            item = int(rng.integers(40))
            writer.writerow([f"u{rng.integers(30)}", f"i{item}", 1000 + n, int(click(n, item))])
    (folder / "samples.toml").write_text(PLAIN)
    build_samples(load_schema(folder / "samples.toml"), folder / "samples")
    return folder / "samples"


def test_a_model_of_noise_says_so_in_every_command(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    samples = clicks(tmp_path, lambda n, item: rng.random() < 0.3)
    run, runner = tmp_path / "run", CliRunner()
    base = [f"--samples={samples}", "--epochs=1"]
    fitted = runner.invoke(trainer, ["fit", *base, "--no-images", f"--out={run}"])
    assert fitted.exit_code == 0, fitted.output
    evaluated = runner.invoke(trainer, ["evaluate", str(run)])
    compared = runner.invoke(trainer, ["compare", *base, "--models=din", "--seeds=2", f"--out={tmp_path / 'c'}"])
    assert compared.exit_code == 0, compared.output
    for done in (fitted, evaluated, compared):
        assert "no better than that of a constant" in done.stdout, done.output
    assert "(a constant: 0." in fitted.stdout
    assert "(a constant: 0." in evaluated.stdout
    assert "unseen items" not in evaluated.stdout  # every item is in training
    assert "din ids only in 2 of 2 seeds" in compared.stdout
    assert re.search(r"^constant .*0\.5000 ", compared.stdout, flags=re.MULTILINE)
    assert "constant" in " ".join(json.loads((run / "metrics.json").read_text())["doubts"])
    for folder in (run, tmp_path / "c"):
        runner.invoke(trainer, ["report", str(folder), f"--out={tmp_path / 'r.html'}"])
        html = (tmp_path / "r.html").read_text()
        assert '<p class="warning">' in html
        assert "no better than that of a constant" in html


def test_a_model_that_learned_has_no_doubts(tmp_path: Path) -> None:
    samples = clicks(tmp_path, lambda n, item: item % 3 == 0)
    run = tmp_path / "run"
    done = CliRunner().invoke(trainer, ["fit", f"--samples={samples}", "--no-images", f"--out={run}"])
    assert done.exit_code == 0, done.output
    assert json.loads((run / "metrics.json").read_text())["doubts"] == []
    assert "no better" not in done.output


def test_a_validation_part_of_one_class_is_said_and_trains_on(tmp_path: Path) -> None:
    """Rows 1050 to 1199 are the validation part: no epoch can be told from another, so the last one is kept."""
    samples = clicks(tmp_path, lambda n, item: item % 3 == 0 and not 1050 <= n < 1200)
    said: list[str] = []
    config = FitConfig(str(samples), str(tmp_path / "run"), images=False, epochs=4, batch_size=64, width=4)
    result = fit(config, announce=said.append)
    assert said == [
        "All 150 rows of the validation part are negative: they have no AUC. No epoch can be told from another: all "
        "are trained, and the last one is kept."
    ]
    assert (result["train"]["epochs"], result["train"]["best_epoch"]) == (4, 4)
    assert "All 150 rows of the validation part are negative" in result["doubts"][0]


@pytest.mark.parametrize(
    ("rows", "batch_size", "epochs"),
    [(10**9, 1024, 5), (102_400, 1024, 5), (102_399, 512, 5), (17_000, 128, 5), (3_200, 32, 5), (3_199, 32, 10)],
)
def test_the_defaults_suit_the_log(rows: int, batch_size: int, epochs: int) -> None:
    """From 100 steps of 1,024 rows on they are what they were; below, an epoch has 100 steps, or more epochs count."""
    found = suited(rows)
    assert (found["batch_size"], found["epochs"], found["patience"]) == (batch_size, epochs, epochs // 5)
    assert found["epochs"] * rows / found["batch_size"] >= 500 or rows >= 102_400


def test_a_small_log_is_not_given_up_after_17_steps(tmp_path: Path) -> None:
    """Clicks that the item decides by half: three seeds learn it, and what is given goes before what is chosen."""
    rng = np.random.default_rng(4)
    samples = clicks(tmp_path, lambda n, item: rng.random() < (0.7 if item % 3 == 0 else 0.2), rows=4000)
    for seed in range(3):
        run = tmp_path / f"run-{seed}"
        command = ["fit", f"--samples={samples}", "--no-images", f"--seed={seed}", f"--out={run}"]
        done = CliRunner().invoke(trainer, command)
        assert done.exit_code == 0, done.output
        assert "For 2,801 training rows: batch-size 32, epochs 10, patience 2." in done.stderr
        assert json.loads((run / "metrics.json").read_text())["test"]["all"]["auc"] > 0.65
    CliRunner().invoke(trainer, [*command[:-1], "--batch-size=256", "--epochs=3", f"--out={tmp_path / 'own'}"])
    fitted = json.loads((tmp_path / "own" / "config.json").read_text())["fit"]
    assert (fitted["batch_size"], fitted["epochs"], fitted["patience"]) == (256, 3, 10)  # 11 steps an epoch


def row(auc_mean: float, gain: float | None = None, std: float | None = 0.001, **more: Any) -> dict[str, Any]:
    of_all: dict[str, Any] = {"auc": {"mean": auc_mean, "std": std}, "pairs": 3, "auc_gain": None}
    if gain is not None:
        of_all["auc_gain"] = {"mean": gain, "std": std}
    images = gain is not None
    return {"model": "din", "images": images, "spaces": ["image"] * images, "baseline": False, "all": of_all, **more}


@pytest.mark.parametrize(
    ("rows", "number", "said"),
    [
        ([row(0.73), row(0.7436, 0.0136)], "+1.4", ["puts so many more of 100 pairs", "more than chance explains"]),
        ([row(0.73), row(0.72, -0.01)], "-1.0", ["so many fewer", "more than chance explains"]),
        ([row(0.73), row(0.7302, 0.0002)], "+0.0", ["3 seeds cannot tell this from chance"]),
        ([row(0.73), row(0.75, 0.02, None)], "+2.0", ["One seed cannot tell"]),
        ([row(0.749)], "74.9", ["in the right order by din ids only", "Guessing gets 50."]),
        ([row(0.7) | {"all": {"auc": None}}], "–", ["labels of the test part are all alike"]),
    ],
)
def test_the_headline_is_one_number_in_plain_words(rows: list[dict[str, Any]], number: str, said: list[str]) -> None:
    found = headline(rows)
    assert found.number == number
    for part in said:
        assert part in f"{found.text} {found.certainty}"


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ([[0.001, -0.002], [0.003, 0.0, 0.001]], "does nothing here.*so that no behaviour counts"),
        ([[0.5, 0.51], [0.5, 0.5, 0.5]], "does nothing here.*count alike, whatever is shown"),
        ([[0.5, 0.6], [0.4, 0.5, 0.6]], "does little here"),
        ([[0.1, 0.9], [-0.4, 0.5, 0.0]], "tells behaviours apart"),
    ],
)
def test_attention_that_does_nothing_says_so(weights: list[list[float]], said: str) -> None:
    assert re.search(said, judgement([np.array(row, dtype=np.float32) for row in weights]))


def test_doubts_of_lines_say_of_which_seeds_they_are() -> None:
    aucs = {(False, 0): 0.7, (False, 1): 0.45, (False, 2): 0.44, (True, 0): 0.7, (True, 1): 0.7, (True, 2): 0.7}
    lines: list[dict[str, Any]] = [
        {
            **{"model": "din", "images": images, "vector_version": "cnn@1/8" * images, "seed": seed, "options": {}},
            "samples": "aaaaaaaaaaaa",
            "test": {"all": found(auc=value)},
        }
        for (images, seed), value in aucs.items()
    ]
    lines[-1]["test"]["all"]["log_loss"] = 0.7
    first, second = summary.doubts(lines)
    assert first.startswith("din ids only in 2 of 3 seeds (1, 2); seed 1: The AUC on the test part, 0.4500, is below")
    assert second.startswith("din with images in 1 of 3 seeds (2); seed 2: The log loss on the test part, 0.7000,")
    (alone,) = summary.doubts(lines[1:2])
    assert alone.startswith("din ids only: The AUC on the test part, 0.4500")
    lines[1] |= {"samples": "bbbbbbbbbbbb", "seed": 2}  # the same seed on another hold-out
    assert summary.doubts(lines)[0].startswith("din ids only in 2 of 3 runs (seeds 2, 2); seed 2: The AUC")
