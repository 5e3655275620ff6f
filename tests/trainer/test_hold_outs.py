"""A comparison over several hold-outs: each with each seed is a pair, and the table says so."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import run_command
from made_samples import SCHEMA, make_samples

from crossmedia.errors import BadInput
from crossmedia.features.reading.samples import Samples
from crossmedia.features.schema import load_schema
from crossmedia.features.writing.build import build_samples
from crossmedia.trainer.compare import compare
from crossmedia.trainer.report.summary import rows as summary_rows
from crossmedia.trainer.settings import CompareConfig, FitConfig

WITHOUT_IMAGES = SCHEMA.replace('image = "image"\n', "").replace("[split]", "[split]\nhold_out_items = 0.2")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    place = tmp_path_factory.mktemp("hold-outs")
    make_samples(place, 60, 3000, {}, WITHOUT_IMAGES)
    schema = load_schema(place / "samples.toml")
    for seed in (0, 1):
        build_samples(schema.with_hold_out_seed(seed), place / f"seed-{seed}")
    return [str(place / "seed-0"), str(place / "seed-1")]


def test_each_hold_out_with_each_seed_is_a_pair(folders: list[str], tmp_path: Path) -> None:
    out = tmp_path / "compare"
    options = ["--models=embedding_mlp", "--seeds=2", "--epochs=1", "--batch-size=256", f"--out={out}"]
    done = run_command("trainer", "compare", f"--samples={folders[0]}", f"--hold-outs={folders[1]}", *options)
    assert "4 runs on 2 hold-outs, items held out by hold_out_seed 0, 1" in " ".join(done.stdout.split())
    found = json.loads((out / "compare.json").read_text())
    hashes = [Samples(folder).hash for folder in folders]
    assert [(line["samples"], line["seed"]) for line in found["runs"]] == [(h, s) for s in (0, 1) for h in hashes]
    assert sorted(path.name for path in out.glob("embedding_mlp*")) == [
        f"embedding_mlp-ids-{seed}{end}" for seed in (0, 1) for end in ("", "-h1")
    ]
    (row,) = [row for row in found["rows"] if not row["baseline"]]
    assert (row["seeds"], row["hold_outs"]) == (4, 2)
    means = {line["samples"]: line["test"] for line in found["baselines"] if line["model"] == "item + user mean"}
    assert means.keys() == set(hashes)
    for part in ("all", "held_out_items"):
        gains = [line["test"][part]["auc"] - means[line["samples"]][part]["auc"] for line in found["runs"]]
        over = row[part]["auc_over_mean"]
        assert over["mean"] == pytest.approx(np.mean(gains), abs=1e-12)
        assert over["low"] < over["mean"] < over["high"]
    assert summary_rows([*found["baselines"], *found["runs"]])[-1]["all"]["auc"] == row["all"]["auc"]


def test_what_is_no_hold_out_of_the_same_log_is_refused(folders: list[str], tmp_path: Path) -> None:
    base = FitConfig(folders[0], str(tmp_path / "out"))
    with pytest.raises(BadInput, match="hold out the same items"):
        compare(CompareConfig(base, hold_outs=(folders[0],)))
    assert not (tmp_path / "out").exists()
