"""Bits flipped, noise, cut, emptied, in files of a run, exported models, heads and samples: refused, or right."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from damages import damaged
from test_ladder import folder as ladder_folder  # noqa: F401

from crossmedia.errors import BadInput, StoreError
from crossmedia.features.reading.samples import Samples
from crossmedia.imgserver.head import Head, HeadSpec
from crossmedia.trainer.cli import trainer
from crossmedia.trainer.export.exported import Exported, export_model
from crossmedia.trainer.fit import FitConfig, fit
from crossmedia.trainer.images.open_images import load_head
from crossmedia.trainer.runs.checkpoint import CONFIG, FILES, HEAD, STATE, load_model, of_run, save_run
from crossmedia.trainer.runs.sealed import seal
from crossmedia.trainer.runs.state import Progress, Trained, load_state, save_state
from crossmedia.trainer.tensors import TensorBatch, to_tensors
from crossmedia.trainer.training.averaging import Averaging

CPU = torch.device("cpu")
IDENTITY = {"model": "din", "seed": 3}


@pytest.fixture(scope="module")
def run(ladder_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """A run with every file that a run can have: one that was killed, and whose head learned."""
    out = tmp_path_factory.mktemp("run")
    fit(FitConfig(str(ladder_folder / "samples"), str(out), images=False, epochs=1, batch_size=64, width=4))
    torch.manual_seed(1)
    (out / HEAD).write_bytes(Head(HeadSpec("learned", (8, 4)), "net/8").to_bytes())
    model, lineage, config = load_model(out)
    save_run(out, model, lineage, config)
    trained = Trained(model, [torch.optim.Adam(model.parameters())], Averaging(model), model.state_dict())
    save_state(out, IDENTITY, trained, Progress(epoch=1, curve=[{"epoch": 1}]))
    export_model(out, Samples(ladder_folder / "samples"), out / "model.pt2")
    return out


@pytest.fixture
def batch(ladder_folder: Path) -> TensorBatch:  # noqa: F811
    return to_tensors(next(Samples(ladder_folder / "samples").batches("test", 16)), CPU)


def state_of(path: Path) -> Any:
    found = load_state(path.parent, IDENTITY, CPU)
    assert found is not None
    return found["progress"], found["model"]


def readers(batch: TensorBatch) -> dict[str, Callable[[Path], Any]]:
    """How each file is read, and what is then used of it."""

    def exported(path: Path) -> Any:
        found = Exported(path)
        return found.probabilities(batch, {}), found.lineage, found.vocabulary

    def weights(path: Path) -> Any:
        model, lineage, config = load_model(path.parent)
        return model.probabilities(batch, {}).detach(), lineage, config

    def head(path: Path) -> Any:
        found = load_head(path.parent)
        assert found is not None
        return found.state_dict(), found.backbone

    def head_alone(path: Path) -> Any:
        found = Head.from_bytes(path.read_bytes())
        return found.state_dict(), found.backbone

    def another(path: Path) -> Any:
        return of_run(path.parent, path.name)

    own = dict.fromkeys(FILES, another) | {CONFIG: weights, "model.safetensors": weights, HEAD: head}
    return {**own, STATE: state_of, "model.pt2": exported, "alone.safetensors": head_alone}


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def walk(run: Path, work: Path, batch: TensorBatch, tries: int) -> int:
    """Damage every file ``tries`` times; returns how often it was refused."""
    shutil.copytree(run, work, dirs_exist_ok=True)
    shutil.copy(run / HEAD, work / "alone.safetensors")
    rng, refused = np.random.default_rng(tries), 0
    for name, read in readers(batch).items():
        path = work / name
        whole, expected = path.read_bytes(), read(path)
        for _ in range(tries):
            what, data = damaged(whole, rng)
            path.write_bytes(data)
            try:
                found = read(path)
            except BadInput:
                refused += 1
            else:
                assert same(found, expected), f"{what} of {name} was read as something else"
        path.write_bytes(whole)
        assert same(read(path), expected)
    return refused


def test_no_damage_to_a_run_is_taken_for_what_was_written(run: Path, batch: TensorBatch, tmp_path: Path) -> None:
    assert walk(run, tmp_path, batch, tries=40) > 300


@pytest.mark.faults
def test_damage_at_two_thousand_places(
    run: Path, batch: TensorBatch, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    tries = max(250, int(pytestconfig.getoption("--kills")))
    refused = walk(run, tmp_path, batch, tries)
    print(f"\n{tries * len(readers(batch))} damages, {refused} refused, none read as something else")


@pytest.mark.parametrize("name", ["train.parquet", "vocabulary.parquet"])
def test_damaged_samples_are_refused(ladder_folder: Path, tmp_path: Path, name: str) -> None:  # noqa: F811
    shutil.copytree(ladder_folder / "samples", tmp_path, dirs_exist_ok=True)
    path = tmp_path / name

    def read() -> Any:
        samples = Samples(tmp_path)
        return samples.frame("train").to_pylist(), samples.vocabulary.hash, samples.id_columns

    whole, expected, rng = path.read_bytes(), read(), np.random.default_rng(7)
    for _ in range(60):
        what, data = damaged(whole, rng)
        path.write_bytes(data)
        try:
            found = read()
        except BadInput:
            continue
        assert found == expected, f"{what} of {name} was read as something else"


def test_a_damaged_state_says_the_way_out_and_it_works(
    ladder_folder: Path,  # noqa: F811
    run: Path,
    tmp_path: Path,
) -> None:
    shutil.copy(run / STATE, tmp_path / STATE)
    with open(tmp_path / STATE, "r+b") as file:
        file.truncate(1000)
    command = ["fit", f"--samples={ladder_folder / 'samples'}", f"--out={tmp_path}", "--no-images", "--epochs=1"]
    refused = CliRunner().invoke(trainer, command)
    assert (refused.exit_code, "is damaged" in refused.output, "Delete it" in refused.output) == (2, True, True)
    (tmp_path / STATE).unlink()
    done = CliRunner().invoke(trainer, command)
    assert done.exit_code == 0, done.output


def test_a_state_that_is_a_pickle_is_not_loaded(run: Path, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "touched",)

    torch.save({"identity": IDENTITY, "evil": Evil()}, tmp_path / STATE)
    seal(tmp_path / STATE)
    with pytest.raises(BadInput, match="Delete it"):
        load_state(tmp_path, IDENTITY, CPU)
    assert not (tmp_path / "touched").exists()


def test_files_of_two_runs_are_not_one(run: Path, config: FitConfig, tmp_path: Path) -> None:
    fit(replace(config, seed=5))
    shutil.copytree(run, tmp_path / "mixed")
    shutil.copy(Path(config.out) / "model.safetensors", tmp_path / "mixed")
    with pytest.raises(BadInput, match=r"model.safetensors is not what was written with config.json"):
        load_model(tmp_path / "mixed")


@pytest.fixture
def config(ladder_folder: Path, tmp_path: Path) -> FitConfig:  # noqa: F811
    return FitConfig(str(ladder_folder / "samples"), str(tmp_path / "run"), images=False, epochs=1, width=4)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MB in memory."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"A small disk cannot be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(disk: Path, leave: int) -> None:
    """Take all room but ``leave`` bytes."""
    ballast = disk / "ballast"
    with open(ballast, "wb", buffering=0) as file:
        try:
            while file.write(b"x" * 4096):
                pass
        except OSError:
            file.truncate(max(0, file.tell() - leave))


def test_a_full_disk_ends_no_file_in_the_middle(
    small_disk: Path,
    run: Path,
    ladder_folder: Path,  # noqa: F811
) -> None:
    """The state of before stands, and no output has its name before it is whole."""
    model, lineage, fitted = load_model(run)
    home = small_disk / "run"
    save_run(home, model, lineage, fitted)
    first = Trained(model, [torch.optim.Adam(model.parameters())], Averaging(model))
    save_state(home, IDENTITY, first, Progress(epoch=1))
    before = state_of(home / STATE)
    for leave in (30_000, 0):
        fill(small_disk, leave)
        with pytest.raises(StoreError, match="Is the disk full"):
            save_state(home, IDENTITY, first, Progress(epoch=2))
        with pytest.raises(StoreError, match="Is the disk full"):
            save_run(home, model, lineage, fitted)
        assert same(state_of(home / STATE), before)
        load_model(home)
    base = [f"--samples={ladder_folder / 'samples'}"]
    for command in (
        ["score", str(run), *base, f"--out={small_disk / 'scores.parquet'}"],
        ["export", str(run), *base, f"--out={small_disk / 'model.pt2'}"],
        ["report", str(run), f"--out={small_disk / 'report.html'}"],
        ["fit", *base, "--no-images", "--epochs=1", f"--out={small_disk / 'fit'}"],
    ):
        done = CliRunner().invoke(trainer, command)
        assert done.exit_code == 1, (command, done.output)
        assert "Is the disk full?" in done.output, (command, done.output)
    names = {path.name for path in small_disk.rglob("*") if path.is_file() and "tensorboard" not in path.parts}
    assert names == {"ballast", "config.json", "model.safetensors", STATE}
