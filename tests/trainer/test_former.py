"""Runs and lines of releases whose defaults were others: they are what they were, also where they do not say so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_samples import make_samples

from crossmedia.trainer.evaluate import evaluate
from crossmedia.trainer.fit import FitConfig, fit
from crossmedia.trainer.former import as_then
from crossmedia.trainer.report import summary
from crossmedia.trainer.runs import results
from crossmedia.trainer.runs.checkpoint import CONFIG, document_of
from crossmedia.trainer.runs.sealed import sealed_json

SUM = {"softmax": False}


@pytest.mark.parametrize(
    ("model", "options", "then"),
    [
        ("din", {}, SUM),
        ("din", {"softmax": True}, {"softmax": True}),
        ("simtier", {"tiers": 9}, {"tiers": 9, **SUM}),
        ("dicm", {"base": "din"}, {"base": "din", **SUM}),
        ("muse", {}, {}),
        ("lr", {"alpha": 0.1}, {"alpha": 0.1}),
        ("rocket", {}, {"booster_options": SUM}),
        ("rocket", {"booster": "dien", "light": "din"}, {"booster": "dien", "light": "din", "light_options": SUM}),
    ],
)
def test_options_were_what_they_were(model: str, options: dict[str, Any], then: dict[str, Any]) -> None:
    assert as_then(model, {"options": options}) == {"averaging": False, "options": then}
    for averaging in (True, False):
        now = {"averaging": averaging, "options": options}
        assert as_then(model, now) == now


def test_a_line_of_an_older_release_is_no_line_of_the_defaults_of_now(tmp_path: Path) -> None:
    key: dict[str, Any] = {
        "data": "d",
        "samples": "s",
        "model": "din",
        "images": False,
        "vector_version": "",
        "seed": 0,
    }
    same = {"averaging": False, "options": SUM}
    old, then, now = ({**key, "options": options} for options in ({}, same, {"averaging": True}))
    assert results.identity(old) == results.identity(then) != results.identity(now)
    path = tmp_path / "results.jsonl"
    for line in (old, now):
        results.append(path, {**line, "test": {}, "train": {}, "curve": []})
    read = list(results.read([path]).values())
    assert [line["options"] for line in read] == [same, {"averaging": True}]
    assert [summary.options_text(line) for line in read] == ["averaging=False", "default options"]
    assert [summary.base_name(line) for line in read] == ["din softmax=False", "din"]
    assert len(summary.groups(read)) == 2


@pytest.mark.parametrize(
    ("model", "left_out", "then"),
    [("din", {}, SUM), ("rocket", {"light": "din"}, {"light": "din", "light_options": SUM, "booster_options": SUM})],
)
def test_a_run_of_an_older_release_gives_the_numbers_that_it_gave(
    tmp_path: Path, model: str, left_out: dict[str, Any], then: dict[str, Any]
) -> None:
    """Its weights would fit a net with a softmax as well."""
    samples = make_samples(tmp_path, 60, 1500, {})
    config = FitConfig(str(samples), str(tmp_path / "run"), model, images=False, epochs=2, batch_size=64)
    run = replace(config, averaging=False, options=then)
    found = fit(run)
    document = document_of(Path(run.out))
    document["fit"]["options"] = document["lineage"]["options"] = left_out
    del document["fit"]["averaging"]
    (Path(run.out) / CONFIG).write_text(sealed_json(document))
    assert evaluate(run.out)["all"] == found["test"]["all"]
    said: list[str] = []
    assert fit(run, announce=said.append)["curve"] == found["curve"]
    assert "this very run" in said[0]
    now = fit(replace(config, out=str(tmp_path / "now"), averaging=False, options=left_out))
    assert now["test"]["all"] != found["test"]["all"]
