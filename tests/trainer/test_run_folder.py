"""Whose a run folder is: what may be written there, what is refused, and what a run that ended early says."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from conftest import DaemonProcess, copy_store, run_command
from made_samples import make_samples
from test_fit import Away, config, samples, transport  # noqa: F401

from crossmedia.errors import BadInput, ServerUnavailable, StoreError
from crossmedia.imgserver.client import ImageClient, MockTransport
from crossmedia.trainer.cli import trainer
from crossmedia.trainer.compare import CompareConfig, compare
from crossmedia.trainer.fit import FitConfig, fit
from crossmedia.trainer.runs.checkpoint import CONFIG, METRICS, STATE
from crossmedia.trainer.runs.run_folder import LOCK
from crossmedia.trainer.runs.state import save_state
from crossmedia.trainer.scorer import Scorer


class Killed(Exception):
    pass


def killed(config: FitConfig, epoch: int = 2) -> None:  # noqa: F811
    """A run without images that ends in the middle of an epoch, after it saved the one before."""

    def kill(done: int, total: int, what: str) -> None:
        if what.startswith(f"epoch {epoch}"):
            raise Killed

    with pytest.raises(Killed):
        fit(config, progress=kill)


@pytest.fixture
def plain(config: FitConfig) -> FitConfig:  # noqa: F811
    return replace(config, images=False, epochs=2, patience=9)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": "lr"}, "model din, not lr"),
        ({"epochs": 1}, "epochs 2, not 1"),
        ({"seed": 4}, "seed 0, not 4"),
        ({"options": {"hidden": (8,)}}, r"options \{\}, not \{\"hidden\": \[8\]\}"),
    ],
)
def test_another_run_is_refused_and_stands(plain: FitConfig, change: dict[str, Any], said: str) -> None:
    fit(plain)
    before = files(Path(plain.out))
    with pytest.raises(BadInput, match=rf"holds another run \(.*{said}.*--overwrite"):
        fit(replace(plain, **change))
    assert files(Path(plain.out)) == before
    result = fit(replace(plain, **change, overwrite=True))
    assert result["train"]["epochs"] == json.loads((Path(plain.out) / METRICS).read_text())["train"]["epochs"]


def test_a_folder_of_samples_or_of_other_files_is_refused(
    plain: FitConfig,
    transport: MockTransport,  # noqa: F811
) -> None:
    before = files(Path(plain.samples))
    for overwrite in (False, True):
        into_samples = replace(plain, out=plain.samples, overwrite=overwrite)
        with pytest.raises(BadInput, match=r"holds samples \(samples.json\). Give another --out"):
            fit(into_samples)
    with pytest.raises(BadInput, match=r"holds samples \(samples.json\). Give another --out"):
        compare(CompareConfig(into_samples, ("lr",), 1), transport)
    assert files(Path(plain.samples)) == before
    theirs = Path(plain.out)
    theirs.mkdir()
    (theirs / "notes.txt").touch()
    with pytest.raises(BadInput, match=r"holds notes\.txt, which is no file of a run"):
        fit(replace(plain, overwrite=True))
    assert [*files(theirs)] == ["notes.txt"]
    (theirs / "notes.txt").unlink()
    fit(plain)
    (theirs / "notes.txt").touch()
    fit(replace(plain, seed=1, overwrite=True))


def test_other_samples_are_another_run(plain: FitConfig, tmp_path: Path) -> None:
    fit(plain)
    other = make_samples(tmp_path, 20, 400, {i: i for i in range(20)})
    with pytest.raises(BadInput, match="other samples"):
        fit(replace(plain, samples=str(other)))


def test_the_same_run_that_ended_is_not_repeated_and_says_so(plain: FitConfig) -> None:
    """Wherever its samples lie, and whichever server is asked."""
    first = fit(plain)
    said: list[str] = []
    written = (Path(plain.out) / METRICS).stat().st_mtime_ns
    again = fit(replace(plain, server="elsewhere:1", timeout_s=3.0), announce=said.append)
    assert again == first
    assert (Path(plain.out) / METRICS).stat().st_mtime_ns == written
    assert len(said) == 1
    assert "finished: it is not trained again; with --overwrite it is" in said[0]
    fit(replace(plain, overwrite=True))
    assert (Path(plain.out) / METRICS).stat().st_mtime_ns > written


def test_an_interrupted_run_goes_on_and_says_so(plain: FitConfig) -> None:
    whole = fit(replace(plain, out=plain.out + "-whole"))
    killed(plain)
    said: list[str] = []
    moved = replace(plain, server="another:7070", timeout_s=5.0)  # where things are changes no number
    assert fit(moved, announce=said.append)["test"] == whole["test"]
    assert said == [f"The run in {plain.out} was interrupted: it goes on behind epoch 1."]


def test_an_interrupted_run_of_other_settings_is_refused(plain: FitConfig) -> None:
    killed(plain)
    state = (Path(plain.out) / STATE).read_bytes()
    with pytest.raises(BadInput, match="holds an interrupted run with other settings"):
        fit(replace(plain, seed=7))
    assert (Path(plain.out) / STATE).read_bytes() == state
    assert fit(replace(plain, seed=7, overwrite=True))["train"]["epochs"] == 2


def test_a_command_on_an_interrupted_run_says_how_it_goes_on(plain: FitConfig) -> None:
    killed(plain)
    for command in ("evaluate", "score", "report", "export"):
        done = CliRunner().invoke(trainer, [command, plain.out])
        assert done.exit_code == 2
        assert "goes on from its last epoch when the same command is given" in done.output, (command, done.output)
    with pytest.raises(BadInput, match="goes on from its last epoch"):
        Scorer.load(plain.out)


def test_without_a_name_each_run_gets_a_fresh_folder(
    plain: FitConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    nameless = replace(plain, out="")
    assert fit(nameless)["out"] == "runs/din-ids"
    assert fit(nameless)["out"] == "runs/din-ids-2"
    killed(nameless)
    assert (tmp_path / "runs" / "din-ids-3" / STATE).exists()
    assert fit(replace(nameless, model="lr"))["out"] == "runs/lr-ids"
    assert fit(replace(nameless, seed=3))["out"] == "runs/din-ids-4"
    said: list[str] = []
    assert fit(nameless, announce=said.append)["out"] == "runs/din-ids-3"
    assert "goes on behind epoch 1" in said[0]


HOLDER = """
    import sys
    from crossmedia.trainer.fit import FitConfig, fit

    def wait(done, total, what):
        print("training", flush=True)
        sys.stdin.readline()

    fit(FitConfig(sys.argv[1], sys.argv[2], images=False, epochs=1, batch_size=64, width=4), progress=wait)
"""


def test_two_at_once_in_one_folder(plain: FitConfig, tmp_path: Path) -> None:
    """The second is refused, and names the first; without a name it takes another folder."""
    command = [sys.executable, "-c", textwrap.dedent(HOLDER), plain.samples, plain.out]
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as first:
        try:
            assert first.stdout is not None
            assert first.stdout.readline() == "training\n"
            with pytest.raises(BadInput, match=rf"is in use by process {first.pid} "):
                fit(replace(plain, overwrite=True))
            assert (Path(plain.out) / LOCK).exists()
        finally:
            first.kill()
    assert fit(plain)["train"]["epochs"] == 2  # a lock ends with who held it
    assert not (Path(plain.out) / LOCK).exists()


def test_a_folder_that_cannot_be_made_is_said(plain: FitConfig, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be used"):
        fit(replace(plain, out=str(tmp_path / "file" / "run")))


@pytest.mark.parametrize(
    ("calls", "said"),
    [
        (10, "No epoch had ended: the same command starts the run again"),
        (60, "kept up to the end of epoch 1: the same"),
    ],
)
def test_a_server_that_goes_leaves_a_run_that_goes_on(
    config: FitConfig,  # noqa: F811
    transport: MockTransport,  # noqa: F811
    calls: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Away, "most", calls)
    config = replace(config, timeout_s=0.5, patience=9, epochs=2)
    with pytest.raises(ServerUnavailable, match=said):
        fit(config, Away(transport.vectors))
    seen: set[str] = set()
    fit(config, transport, lambda done, total, what: seen.add(what[:7]))
    assert ("epoch 1" in seen) == (calls == 10)


def test_a_comparison_without_a_name_goes_on_where_it_was(
    plain: FitConfig,
    transport: MockTransport,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    small = CompareConfig(replace(plain, images=True, out="", epochs=1), ("lr",), 1)
    assert compare(small, transport)["out"] == "runs/compare"
    said: list[str] = []
    more = compare(replace(small, seeds=2), transport, said.append)
    assert (more["out"], sum("training" in text for text in said)) == ("runs/compare", 2)
    assert compare(replace(small, base=replace(small.base, epochs=2)), transport)["out"] == "runs/compare-2"
    with pytest.raises(BadInput, match="holds a comparison of other samples, vectors or settings"):
        compare(replace(small, base=replace(small.base, epochs=2, out="runs/compare")), transport)


def test_runs_and_comparisons_have_no_folder_together(
    plain: FitConfig,
    transport: MockTransport,  # noqa: F811
    tmp_path: Path,
) -> None:
    """The report would show one for the other."""
    fit(plain)
    small = CompareConfig(replace(plain, images=True, epochs=1, overwrite=True), ("lr",), 1)
    with pytest.raises(BadInput, match="holds a run of 'trainer fit'"):
        compare(small, transport)
    other = str(tmp_path / "c")
    compare(replace(small, base=replace(small.base, out=other)), transport)
    with pytest.raises(BadInput, match="holds a comparison"):
        fit(replace(plain, out=other, overwrite=True))


def test_a_comparison_that_was_killed_before_its_line_trains_nothing_twice(
    plain: FitConfig,
    transport: MockTransport,  # noqa: F811
    tmp_path: Path,
) -> None:
    small = CompareConfig(replace(plain, images=True, epochs=1, out=str(tmp_path / "c")), ("lr",), 1)
    first = compare(small, transport)
    (tmp_path / "c" / "results.jsonl").unlink()
    said: list[str] = []
    again = compare(small, transport, said.append)
    assert again["runs"] == first["runs"]
    assert sum("it is not trained again" in text for text in said) == 2


def test_a_run_is_evaluated_with_its_own_version_of_vectors(graph_cache: Path, photos: Path, tmp_path: Path) -> None:
    """Whichever is active now; one that the server does not hold is said."""
    store = copy_store(graph_cache, tmp_path / "store")
    made = make_samples(tmp_path, 100, 1500, {i: i for i in range(100)})
    server = DaemonProcess(store, photos)
    try:
        run, base = tmp_path / "run", (f"--samples={made}", f"--server={server.address}")
        fitted = json.loads(run_command("trainer", "fit", *base, "--epochs=1", f"--out={run}", "--json").stdout)
        run_command("imgserver", "precompute", f"--store={store}", f"--catalogue={photos}", "--new-head", "--dim=8")
        with ImageClient(server.address) as client:  # which looks for it once a second
            until = time.monotonic() + 20
            while client.info().version == fitted["vector_version"] and time.monotonic() < until:
                time.sleep(0.1)
            assert client.info().version != fitted["vector_version"]
        again = json.loads(run_command("trainer", "evaluate", str(run), *base, "--json").stdout)
        assert again["all"]["auc"] == pytest.approx(fitted["test"]["all"]["auc"], abs=1e-6)
        out = tmp_path / "scores.parquet"
        run_command("trainer", "score", str(run), *base, f"--out={out}")
        predicted = pq.read_table(run / "predictions.parquet")["probability"].to_numpy()
        assert np.allclose(pq.read_table(out)["probability"].to_numpy(), predicted, atol=1e-5)
        run_command("imgserver", "versions", f"--store={store}", "--delete", fitted["vector_version"])
        refused = run_command("trainer", "evaluate", str(run), *base, check=False)
        assert refused.returncode == 4
        assert fitted["vector_version"] in refused.stderr
    finally:
        server.stop()
    assert (run / CONFIG).exists()


def test_a_disk_that_is_full_says_which_epoch_is_kept(plain: FitConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The epoch whose state could not be written is not kept, though it was trained."""
    written = iter([save_state])

    def full(out: Path, *rest: Any) -> None:
        try:
            save = next(written)
        except StopIteration:
            raise StoreError(f"{out / STATE} cannot be written. Is the disk full?") from None
        save(out, *rest)

    monkeypatch.setattr("crossmedia.trainer.fit.save_state", full)
    with pytest.raises(StoreError, match=r"disk full\? The run in .* is kept up to the end of epoch 1: the same"):
        fit(plain)
    monkeypatch.undo()
    seen: set[str] = set()
    fit(plain, progress=lambda done, total, what: seen.add(what[:7]))
    assert seen == {"epoch 2"}
