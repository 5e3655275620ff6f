"""What pictures are worth, over several hold-outs and seeds: pairs, intervals, means in the table, and tuning."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_samples import SCHEMA, make_samples

from benchmarks import worth
from crossmedia.errors import BadInput
from crossmedia.features.reading.hold_outs import hold_outs
from crossmedia.features.schema import load_schema
from crossmedia.features.writing.build import build_samples

HOLD_OUT = SCHEMA.replace("[split]", "[split]\nhold_out_items = 0.2")
Said = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two hold-outs of one log."""
    place = tmp_path_factory.mktemp("hold-outs")
    make_samples(place, 60, 3000, {i: i for i in range(60)}, HOLD_OUT)
    schema = load_schema(place / "samples.toml")
    for seed in (0, 1):
        build_samples(schema.with_hold_out_seed(seed), place / f"seed-{seed}")
    return [place / "seed-0", place / "seed-1"]


@pytest.fixture
def said(
    folders: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Said:
    """Runs the benchmark, with ids only, and gives what its last line says."""

    def run(*options: str) -> dict[str, Any]:
        settings = json.dumps({"epochs": 1, "batch_size": 256, "embedding_l2": 0.0})
        fixed = ["--samples", *map(str, folders), f"--results={tmp_path / 'lines.jsonl'}", f"--out={tmp_path / 'runs'}"]
        fixed += ["--data=grocery", "--variants=ids only;ids only, none hidden", f"--settings={settings}"]
        monkeypatch.setattr(sys, "argv", ["worth", *fixed, *options])
        worth.main()
        found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
        return found

    return run


def test_each_hold_out_with_each_seed_is_a_pair(said: Said, tmp_path: Path, folders: list[Path]) -> None:
    found = said("--seeds=2", "--first-seed=3", "--base=item + user mean")
    lines = [json.loads(line) for line in (tmp_path / "lines.jsonl").read_text().splitlines()]
    assert sorted({(line["samples"], line["seed"]) for line in lines}) == sorted(
        (samples.hash, seed) for samples in hold_outs(folders) for seed in (3, 4)
    )
    rows = {row["variant"]: row for row in found["rows"]}
    assert list(rows) == ["constant", "item mean", "item + user mean", "ids only", "ids only, none hidden"]
    ids = rows["ids only"]
    assert (ids["seeds"], ids["hold_outs"], ids["runs"]) == (2, 2, 4)
    own = [line["test"]["held_out_items"]["auc"] for line in lines[::2]]
    assert ids["held_out_items"]["auc"]["mean"] == pytest.approx(np.mean(own), abs=1e-12)
    gain = ids["held_out_items"]["auc_gain"]
    assert gain["low"] < gain["mean"] < gain["high"]
    assert found["ratios"]["ids only"] == ids["all"]["auc_gain"]["mean"], "to all of its digits"
    assert rows["constant"]["held_out_items"]["auc"]["mean"] == 0.5
    before = (tmp_path / "lines.jsonl").read_text()
    again = said("--seeds=2", "--first-seed=3", "--base=item + user mean", "--table")
    assert again["rows"] == found["rows"]
    assert (tmp_path / "lines.jsonl").read_text() == before


def test_without_predictions_there_is_no_interval(said: Said, tmp_path: Path) -> None:
    said("--seeds=1")
    for file in (tmp_path / "runs").glob("*none-hidden*/predictions.parquet"):
        file.unlink()
    rows = {row["variant"]: row for row in said("--seeds=1", "--table")["rows"]}
    assert "low" not in rows["ids only, none hidden"]["all"]["auc_gain"]
    assert "low" in rows["item mean"]["all"]["auc_gain"]


def test_both_sides_hide_the_ids_that_are_best_on_items_held_out_of_validation(said: Said, tmp_path: Path) -> None:
    found = said("--seeds=1", "--tune=0,0.5")
    lines = [json.loads(line) for line in (tmp_path / "lines.jsonl").read_text().splitlines()]
    assert {line["options"]["validate_on"] for line in lines} == {"unseen-items"}
    assert {line["data"] for line in lines} == {"grocery, tuning"}
    means = {
        share: np.mean([line["validation"]["all"]["auc"] for line in lines if line["options"]["id_dropout"] == share])
        for share in (0.0, 0.5)
    }
    assert found["id_dropout"] == max(means, key=lambda share: means[share])
    with pytest.raises(SystemExit, match="no line of grocery yet"):
        said("--seeds=1", "--table")


def test_only_hold_outs_of_one_log_are_compared(folders: list[Path], tmp_path: Path) -> None:
    assert [samples.hold_out_seed for samples in hold_outs(folders)] == [0, 1]
    assert len(hold_outs(folders[:1])) == 1
    with pytest.raises(BadInput, match=r"hold out the same items \(hold_out_seed 0\).*another --hold-out-seed"):
        hold_outs([folders[0], folders[0]])
    plain = make_samples(tmp_path, 60, 3000, {i: i for i in range(60)})
    with pytest.raises(BadInput, match="has_held_out is True and False"):
        hold_outs([folders[0], plain])
    with pytest.raises(BadInput, match=r"nothing is held out.*--hold-out-seed 1"):
        hold_outs([plain, plain])
    (tmp_path / "other").mkdir()
    make_samples(tmp_path / "other", 60, 2900, {i: i for i in range(60)}, f"{HOLD_OUT}hold_out_seed = 5\n")
    with pytest.raises(BadInput, match="their test rows differ"):
        hold_outs([folders[0], tmp_path / "other" / "samples"])
