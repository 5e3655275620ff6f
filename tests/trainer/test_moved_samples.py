"""Runs and comparisons record the folder of their samples, which may be elsewhere when they are used again."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_samples import WITHOUT_HISTORIES, make_samples

from crossmedia import CompareConfig, FitConfig, ReportConfig, Scorer, compare, evaluate, export_model, fit
from crossmedia import write_report as report
from crossmedia.errors import BadInput
from crossmedia.features.reading.samples import Samples
from crossmedia.trainer.report.photos import Names


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``samples``, a run and a comparison of them, made there by relative names."""
    folder = tmp_path_factory.mktemp("made")
    make_samples(folder, 20, 600, {}, WITHOUT_HISTORIES.replace('image = "image"\n', ""))
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        config = FitConfig("samples", "run", "lr", images=False, epochs=1)
        fit(config)
        compare(CompareConfig(FitConfig("samples", "compare", epochs=1), models=("lr",), seeds=1))
    return folder


USES: dict[str, Callable[[Path, str], Any]] = {
    "evaluate": lambda made, samples: evaluate(made / "run", samples=samples)["all"]["rows"],
    "score": lambda made, samples: Scorer.load(made / "run", samples).score({"user_id": "u1"}, {"item_id": ["i1"]}),
    "export": lambda made, samples: export_model(made / "run", samples, made / "run.pt2").stat().st_size,
    "report": lambda made, samples: report(ReportConfig(made / "run", samples, out=made / "r.html")),
    "comparison": lambda made, samples: report(ReportConfig(made / "compare", samples, out=made / "r.html")),
}


@pytest.mark.parametrize("use", list(USES))
def test_what_was_recorded_and_what_to_give_is_said(
    use: str, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput) as refused:
        USES[use](made, "")
    folder = made / ("compare" if use == "comparison" else "run")
    assert str(refused.value) == (
        f"{folder} was made from the samples samples, seen from the folder of that command; this one is {tmp_path}. "
        f'There are none now. Give the folder where they are: --samples, or samples="..." in Python.'
    )
    shutil.copytree(made / "samples", tmp_path / "elsewhere")
    assert USES[use](made, "elsewhere")
    monkeypatch.chdir(made)
    assert USES[use](made, "")


def test_an_absolute_folder_that_has_gone_is_said_without_the_folder_of_the_command(made: Path, tmp_path: Path) -> None:
    samples, run = tmp_path / "samples", tmp_path / "run"
    shutil.copytree(made / "samples", samples)
    fit(FitConfig(str(samples), str(run), "lr", images=False, epochs=1))
    samples.rename(tmp_path / "moved")
    with pytest.raises(BadInput, match=rf"^{run} was made from the samples {samples}\. There are none now\."):
        evaluate(run)


def test_a_behaviour_has_the_name_of_its_item_with_an_image_or_without(tmp_path: Path) -> None:
    samples = Samples(make_samples(tmp_path, 20, 600, {i: i for i in range(10)}))
    known = samples.vocabulary.values["item_id"].to_pylist()
    names = Names(samples)
    frame = samples.frame("test", ["image_id", "raw_item_id", "item_id"]).to_pylist()
    seen = next(row for row in frame if row["image_id"] == -1 and row["item_id"])
    assert names.of_behaviours([-1, -1], [seen["item_id"], 0]) == [seen["raw_item_id"], "an item unknown to training"]
    assert names.of_behaviours([3, 3], [known.index("i7") + 1, 0]) == ["i7", names.of(np.array([3]))[3]]
