"""A head that is aligned: it finds what users like, wherever its features are, and goes on after a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from click.testing import CliRunner
from conftest import ROOT, DaemonProcess, copy_store
from made_samples import SCHEMA, WITHOUT_HISTORIES
from tastes import BACKBONE, SPACES, make_store, make_tastes

from crossmedia import imgserver
from crossmedia.errors import BadInput, TooManyMissingImages, TrainingDiverged
from crossmedia.imgserver.client import ImageClient
from crossmedia.imgserver.head import Head
from crossmedia.trainer.align.pair_options import PairOptions
from crossmedia.trainer.align.settings import AlignConfig, suited
from crossmedia.trainer.align.train import align
from crossmedia.trainer.cli import trainer
from crossmedia.trainer.fit import FitConfig, fit

ENVIRONMENT = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tastes(tmp_path_factory.mktemp("tastes"))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("features") / "store")


@pytest.fixture
def config(samples: Path, store: Path, tmp_path: Path) -> AlignConfig:
    """Of a linear head."""
    settings = {"head_widths": (8,), "epochs": 4, "patience": 9, "batch_size": 128, "learning_rate": 0.03}
    return AlignConfig.suited_to(samples, store=store, out=tmp_path / "aligned", **settings)


def head_of(folder: str) -> Head:
    return Head.from_bytes((Path(folder) / "head.safetensors").read_bytes())


def numbers(result: dict[str, Any]) -> Any:
    """What does not depend on the clock."""
    return result["recall"], result["curve"], result["temperature"], result["vector_version"]


def near(found: Any, expected: Any, tolerance: float = 1e-5) -> None:
    """Both have the same numbers."""
    assert found[0] == expected[0]
    for one, other in zip(found[1], expected[1], strict=True):
        assert one == pytest.approx(other, rel=tolerance, abs=tolerance)


def test_it_finds_what_users_like_next_where_the_start_does_not(config: AlignConfig) -> None:
    said: list[str] = []
    result = align(config, announce=said.append)
    assert result["kept"] == "aligned"
    for part in ("validation", "test"):
        found = result["recall"][part]
        assert found["aligned"]["10"] > 1.3 * max(found[name]["10"] for name in ("start", "features", "random")), found
    assert result["recall"]["test"]["pool"] == 58
    assert result["pairs"] > 1000
    assert result["users"] == 60
    assert 0.02 <= result["temperature"] <= 0.2
    assert [line["epoch"] for line in result["curve"]] == [1, 2, 3, 4]
    assert len([line for line in said if "recall@" in line]) == 4
    assert sorted(path.name for path in Path(config.out).iterdir()) == [
        "config.json",
        "head.safetensors",
        "metrics.json",
    ]
    assert head_of(config.out).version(BACKBONE) == result["vector_version"]


def test_vectors_are_as_long_as_those_of_the_start(config: AlignConfig, store: Path) -> None:
    align(config)
    with ImageClient(imgserver.open_local(store)) as client:
        features = client.get(np.arange(300), version=BACKBONE).values.astype(np.float32)
        start = client.get(np.arange(300)).values.astype(np.float32)
    aligned = head_of(config.out).apply_numpy(features)
    assert np.sqrt(np.square(aligned).mean()) == pytest.approx(np.sqrt(np.square(start).mean()), rel=0.05)


def test_a_head_that_is_no_better_than_its_start_is_the_start(config: AlignConfig) -> None:
    said: list[str] = []
    result = align(replace(config, learning_rate=1e-12, epochs=2), announce=said.append)
    assert result["kept"] == "start"
    assert result["best_epoch"] == 0
    assert "No epoch beat the start" in said[-1]
    for found in result["recall"].values():
        assert found["aligned"] == found["start"]


class Killed(Exception):
    pass


def killed(config: AlignConfig, epoch: int) -> None:
    """A run that ends in the middle of an epoch."""

    def kill(done: int, total: int, what: str) -> None:
        if what.startswith(f"epoch {epoch}") and done > total / 2:
            raise Killed

    with pytest.raises(Killed):
        align(config, progress=kill)


@pytest.mark.parametrize("hard", [False, True])
def test_after_a_kill_it_ends_with_the_same_numbers(config: AlignConfig, hard: bool) -> None:
    config = replace(config, pairs=PairOptions(hard_negatives=hard))
    whole = align(config)
    again = replace(config, out=config.out + "-again")
    killed(again, 3)
    with pytest.raises(BadInput, match="holds an interrupted run with other settings"):
        align(replace(again, seed=1))
    seen: list[str] = []
    said: list[str] = []
    resumed = align(again, progress=lambda done, total, what: seen.append(what[:7]), announce=said.append)
    assert set(seen) == {"epoch 3", "epoch 4"}
    assert "goes on behind epoch 2" in said[0]
    assert numbers(resumed) == numbers(whole)
    assert head_of(again.out).digest() == head_of(config.out).digest()


def test_a_run_that_ended_is_not_repeated_and_another_is_refused(config: AlignConfig) -> None:
    first = align(config)
    said: list[str] = []
    assert align(replace(config, timeout_s=3.0), announce=said.append) == first
    assert "finished: it is not trained again" in said[0]
    with pytest.raises(BadInput, match=r"holds another run \(epochs 4, not 5\)"):
        align(replace(config, epochs=5))
    with pytest.raises(BadInput, match="of a head that 'trainer align' made"):
        fit(FitConfig(config.samples, out=config.out, store=config.store))
    assert align(replace(config, epochs=1, overwrite=True))["epochs"] == 1
    fit(FitConfig(config.samples, out=config.out + "-fit", images=False, model="lr", epochs=1))
    with pytest.raises(BadInput, match="of a model that 'trainer fit' made"):
        align(replace(config, out=config.out + "-fit"))


@pytest.fixture(scope="module")
def served(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a daemon over the features."""
    process = DaemonProcess(copy_store(store, tmp_path_factory.mktemp("served") / "store"), None)
    yield process.address
    process.stop()


@pytest.mark.parametrize("widths", [(8,), (16, 8)])
def test_through_a_server_it_finds_the_same(config: AlignConfig, served: str, widths: tuple[int, ...]) -> None:
    config = replace(config, epochs=2, head_widths=widths, pairs=PairOptions(hard_negatives=True))
    local = align(config)
    remote = align(replace(config, store="", server=served, out=config.out + "-remote"))
    near(numbers(remote), numbers(local), 1e-4)


def torchrun(config: AlignConfig, world: int, *more: str) -> subprocess.Popen[str]:
    options = [f"--samples={config.samples}", "--head-widths=8", "--epochs=3", "--patience=9", "--learning-rate=0.03"]
    options += ["--batch-size=101", "--json", *more]  # of which the processes have more and fewer pairs
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}"]
    command += ["-m", "crossmedia.trainer", "align", *options]
    return subprocess.Popen(
        command, text=True, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def test_two_processes_align_the_head_of_one(config: AlignConfig, served: str) -> None:
    one = align(replace(config, epochs=3, batch_size=101))
    two = torchrun(config, 2, f"--store={config.store}", f"--out={config.out}-two")
    remote = torchrun(config, 2, f"--server={served}", f"--out={config.out}-remote")
    for process in (two, remote):
        out, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
        found = json.loads(out)  # of one process, or it would be no JSON
        assert found["processes"] == 2
        near(numbers(found), numbers(one), 1e-4)


def test_killed_processes_go_on(config: AlignConfig) -> None:
    whole = align(replace(config, epochs=3, batch_size=101))
    out = Path(f"{config.out}-killed")
    process = torchrun(config, 2, f"--store={config.store}", f"--out={out}")
    deadline = time.monotonic() + 120
    while not (out / "state.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(psutil.Process(process.pid).children()[-1].pid, signal.SIGKILL)
    process.communicate(timeout=240)
    again = torchrun(config, 2, f"--store={config.store}", f"--out={out}")
    text, err = again.communicate(timeout=240)
    assert again.returncode == 0, err
    near(numbers(json.loads(text)), numbers(whole), 1e-4)


def test_a_model_starts_from_an_aligned_head(config: AlignConfig) -> None:
    align(config)
    base = FitConfig(config.samples, store=config.store, model="embedding_mlp", epochs=1, batch_size=256, width=4)
    base = replace(base, out=config.out + "-fit", warm_start=config.out)
    with pytest.raises(BadInput, match=r"no head learns here: give --head learn.*precompute --head"):
        fit(base)
    learns = replace(base, head="learn", head_learning_rate=1e-9)
    with pytest.raises(BadInput, match=r"has layers of 8, and --head-widths is 32,8"):
        fit(replace(learns, head_widths=(32, 8)))
    said: list[str] = []
    result = fit(learns, announce=said.append)
    taken = f"Taken from {config.out}: the head of 'image', whose layers behind the feature are 8."
    assert said[0] == f"{taken} The model starts anew."
    with pytest.raises(BadInput, match=r"has layers of 8, and --head-widths is 256,64,12"):
        fit(
            replace(learns, head_widths=(256, 64, 12), out=config.out + "-wide")
        )  # as many as a new head has by default
    again = replace(learns, warm_start=base.out, out=config.out + "-again")
    fit(again, announce=said.append)
    assert f"Taken from {base.out}: all weights but those of ids, and the head of 'image', whose layers" in said[-1]
    aligned, learned = head_of(config.out), head_of(base.out)
    assert learned.spec.widths == (24, 8)
    assert result["vector_version"].startswith(f"{BACKBONE}+learned@")
    for name, weight in aligned.state_dict().items():
        assert np.allclose(weight, learned.state_dict()[name], atol=1e-6)
    for command in ("evaluate", "score", "export"):
        done = CliRunner().invoke(trainer, [command, config.out])
        assert done.exit_code == 2
        assert "holds a head that 'trainer align' made, and no model" in done.output


def test_one_space_of_several_is_aligned(config: AlignConfig, store: Path, tmp_path: Path) -> None:
    (tmp_path / "two").mkdir()
    config = replace(config, samples=str(make_tastes(tmp_path / "two", SPACES)), epochs=1)
    with pytest.raises(BadInput, match=r"several spaces, photo, title, .* say which by --space"):
        align(config)
    with pytest.raises(BadInput, match=r"There is no space 'titel'; there are: photo, title.* Did you mean 'title'\?"):
        align(replace(config, space="titel"))
    photo = align(replace(config, space="photo"))
    vectors = {"photo": str(store), "title": "nowhere:1"}  # of which only that of the space is asked
    named = align(replace(config, store="", vectors=vectors, space="photo", out=config.out + "-named"))
    assert numbers(named) == numbers(photo)
    title = align(replace(config, store="", vectors={"title": str(store)}, out=config.out + "-title"))
    assert title["recall"]["test"]["pool"] > 0


def test_what_cannot_be_aligned_is_refused(config: AlignConfig, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"has no pair: no user has two behaviours within 0\.001 hours"):
        align(replace(config, pairs=PairOptions(window_h=0.001)))
    with pytest.raises(BadInput, match="no id column 'shop'"):
        align(replace(config, pairs=PairOptions(category="shop")))
    with pytest.raises(BadInput, match="batch_size must be a whole number, at least 2"):
        align(replace(config, batch_size=1))
    with pytest.raises(BadInput, match="is no samples folder"):
        align(replace(config, samples=str(tmp_path)))
    with pytest.raises(TrainingDiverged, match="Try a learning rate below 1e\\+30"):
        align(replace(config, learning_rate=1e30))
    done = CliRunner().invoke(trainer, ["align", "--samples", config.samples, "--weights", "click=much"])
    assert done.exit_code == 2
    assert "--weights click='much' is no number" in done.output


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        (WITHOUT_HISTORIES, "have no histories"),
        (SCHEMA.replace('image = "image"\n', ""), "have no images: there is no head to align"),
    ],
)
def test_samples_that_tell_nothing_are_refused(config: AlignConfig, tmp_path: Path, schema: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        align(replace(config, samples=str(make_tastes(tmp_path, schema))))


def test_a_head_of_other_features_is_no_start(config: AlignConfig, tmp_path: Path) -> None:
    align(replace(config, epochs=1))
    other = make_store(tmp_path / "other", "others@111111111111")
    start = FitConfig(config.samples, store=str(other), head="learn", warm_start=config.out, out=f"{config.out}-fit")
    with pytest.raises(BadInput, match=f"was trained on features of {BACKBONE}; the server has those of others@1"):
        fit(start)


def test_features_that_are_missing_stop_it(config: AlignConfig, tmp_path: Path) -> None:
    half = make_store(tmp_path / "half", missing=100)
    with pytest.raises(TooManyMissingImages):
        align(replace(config, store=str(half)))
    found = align(replace(config, store=str(half), max_missing=0.6, out=config.out + "-half"))
    assert found["recall"]["validation"]["aligned"]["10"] > found["recall"]["validation"]["start"]["10"]


def test_the_size_of_the_log_decides() -> None:
    assert suited(10**6, 10**5) == {"head_widths": AlignConfig().head_widths} == {"head_widths": (256, 64)}
    small = suited(10**5, 10**5)
    assert (small["head_widths"], small["batch_size"], small["epochs"]) == ((64,), 1024, 20)
    assert suited(3000, 10**5)["batch_size"] == 128
    assert suited(10, 10**5)["batch_size"] == 64


def test_a_head_is_no_wider_than_the_images_of_training_allow(config: AlignConfig) -> None:
    assert suited(10**5, 65)["head_widths"] == (64,)
    assert suited(10**5, 40)["head_widths"] == (39,)
    assert suited(10**6, 40)["head_widths"] == (256, 39)


def test_the_command_says_what_came_out(config: AlignConfig) -> None:
    options = ["align", "--samples", config.samples, "--store", config.store, "--head-widths", "8", "--epochs", "1"]
    done = CliRunner().invoke(
        trainer, [*options, "--out", config.out, "--weights", "clicked=2", "--product-digits", "3"]
    )
    assert done.exit_code == 0, done.output
    assert "By the size of the log: penalty" in done.stderr
    for words in ("test: ", "test, new products: ", "recall@10", "aligned", "pairs of 60 users", "temperature"):
        assert words in done.stdout
    settings = json.loads((Path(config.out) / "config.json").read_text())["align"]
    assert settings["pairs"]["weights"] == {"buy": 3.0, "cart": 2.0, "click": 1.0, "clicked": 2.0}
