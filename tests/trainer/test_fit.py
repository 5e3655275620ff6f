"""Training on small samples whose clicks only the picture explains."""

from __future__ import annotations

import csv
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import DaemonProcess
from made_samples import SCHEMA, make_samples

from crossmedia.errors import (
    BadInput,
    ServerFault,
    ServerUnavailable,
    TooManyMissingImages,
    TrainingDiverged,
    VersionMismatch,
)
from crossmedia.features.reading.samples import Samples
from crossmedia.features.schema import load_schema
from crossmedia.features.writing.build import build_samples
from crossmedia.imgserver.client import ImageClient, MockTransport
from crossmedia.imgserver.client.transports import Pending
from crossmedia.imgserver.wire import VectorsReply
from crossmedia.trainer.cli import trainer
from crossmedia.trainer.compare import CompareConfig, compare
from crossmedia.trainer.evaluate import measure, predict
from crossmedia.trainer.feed import Feed
from crossmedia.trainer.fit import FitConfig, fit
from crossmedia.trainer.images.image_head import ImageHead
from crossmedia.trainer.images.spaces import Spaces
from crossmedia.trainer.metrics import auc
from crossmedia.trainer.report.verdict import sentence
from crossmedia.trainer.runs.checkpoint import load_model
from crossmedia.v1 import image_server_pb2 as pb

ITEMS, ROWS = 240, 3000


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Whether a row is clicked is a function of the item's vector; items of the test part were never shown before."""
    folder = tmp_path_factory.mktemp("fit")
    rng = np.random.default_rng(5)
    vectors = rng.normal(size=(ITEMS, 8))
    with open(folder / "impressions.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["user", "item", "time", "click"])
        for n in range(ROWS):
            item = int(rng.integers(0, 160) if n < 0.8 * ROWS else rng.integers(160, ITEMS))
            click = rng.random() < 1 / (1 + np.exp(-3 * vectors[item, 0]))
            writer.writerow([f"u{rng.integers(50)}", f"i{item}", 1000 + n, int(click)])
    with open(folder / "items.csv", "w", newline="") as file:
        csv.writer(file).writerows([("item", "image"), *((f"i{i}", i) for i in range(ITEMS))])
    (folder / "samples.toml").write_text(SCHEMA)
    build_samples(load_schema(folder / "samples.toml"), folder / "samples")
    np.save(folder / "vectors.npy", vectors.astype(np.float16))
    return folder / "samples"


@pytest.fixture
def transport(samples: Path) -> MockTransport:
    return MockTransport(dict(enumerate(np.load(samples.parent / "vectors.npy"))))


@pytest.fixture
def config(samples: Path, tmp_path: Path) -> FitConfig:
    return FitConfig(str(samples), str(tmp_path / "run"), epochs=4, batch_size=64, learning_rate=3e-3, width=8)


@pytest.mark.parametrize("model", ["din", "embedding_mlp"])
def test_pictures_tell_what_ids_cannot(config: FitConfig, transport: MockTransport, model: str) -> None:
    with_images = fit(replace(config, model=model), transport)
    ids_only = fit(replace(config, model=model, images=False, out=config.out + "-ids"))
    assert with_images["test"]["unseen_items"]["rows"] == 600
    assert with_images["test"]["unseen_items"]["auc"] > 0.75
    assert 0.4 < ids_only["test"]["unseen_items"]["auc"] < 0.6
    run = Path(config.out)
    assert sorted(p.name for p in run.iterdir()) == [
        *("config.json", "metrics.json", "model.safetensors", "predictions.parquet", "tensorboard"),
    ]
    assert list((run / "tensorboard").iterdir())
    assert with_images["vector_version"] == transport.version


def test_the_same_seed_gives_the_same_numbers_also_after_a_kill(config: FitConfig, transport: MockTransport) -> None:
    config = replace(config, patience=9)
    whole = fit(config, transport)

    class Killed(Exception):
        pass

    def kill(done: int, total: int, what: str) -> None:
        if what.startswith("epoch 3") and done > total / 2:
            raise Killed

    again = replace(config, out=config.out + "-again")
    with pytest.raises(Killed):
        fit(again, transport, kill)
    seen: list[str] = []
    resumed = fit(again, transport, lambda done, total, what: seen.append(what[:7]))
    assert set(seen) == {"epoch 3", "epoch 4"}
    assert resumed["test"] == whole["test"]
    assert resumed["validation"] == whole["validation"]


def test_a_loaded_model_gives_the_numbers_of_its_run(
    config: FitConfig, transport: MockTransport, samples: Path
) -> None:
    import torch

    result = fit(config, transport)
    model, lineage, saved = load_model(config.out)
    assert saved["model"] == "din"
    opened = Samples(samples)
    lineage.check_samples(opened)
    with ImageClient(transport) as client:
        feed = Feed(opened, Spaces({"image": ImageHead(client)}), 64, torch.device("cpu"))
        again = measure(opened, "test", predict(model, feed, "test")[:, 0])
    assert again["all"]["auc"] == pytest.approx(result["test"]["all"]["auc"], abs=1e-6)
    with pytest.raises(BadInput, match="no run that can be loaded"):
        load_model(samples)


class Away(MockTransport):
    """Goes away after a number of calls, for good."""

    calls, most = 0, 10

    def get_vectors(self, request: pb.GetVectorsRequest, timeout_s: float) -> Pending:
        self.calls += 1
        if self.calls > self.most:

            class Gone:
                def result(self) -> VectorsReply:
                    raise ServerUnavailable("No image server answers at mock.")

            return Gone()
        return super().get_vectors(request, timeout_s)


def test_training_ends_within_its_deadline_when_the_server_goes(config: FitConfig, transport: MockTransport) -> None:
    started = time.monotonic()
    with pytest.raises(ServerUnavailable, match=r"No image server answers.* No epoch had ended"):
        fit(replace(config, timeout_s=1.0), Away(transport.vectors))
    assert time.monotonic() - started < 10


class Lying(MockTransport):
    """Serves vectors that are no numbers after a number of calls."""

    calls = 0

    def get_vectors(self, request: pb.GetVectorsRequest, timeout_s: float) -> Pending:
        self.calls += 1
        pending = super().get_vectors(request, timeout_s)
        if self.calls == 60:
            pending.result().values[0] = np.nan
        return pending


def test_a_run_whose_server_lied_goes_on_when_it_does_not(config: FitConfig, transport: MockTransport) -> None:
    """An error of the reply, not of the learning rate; and what was trained before is as good as ever."""
    config = replace(config, epochs=2, patience=9)
    with pytest.raises(ServerFault, match=r"the vector of image [0-9]+ holds nan, and its status is OK"):
        fit(config, Lying(transport.vectors))
    seen: set[str] = set()
    assert fit(config, transport, lambda done, total, what: seen.add(what[:7]))["test"]
    assert seen == {"epoch 2"}, "it did not begin anew"


def test_a_stopped_daemon_is_said_by_the_command(samples: Path, tmp_path: Path, store: Path) -> None:
    process = DaemonProcess(store, None)
    process.stop()
    options = ["fit", f"--samples={samples}", f"--server={process.address}", "--timeout-s=1", f"--out={tmp_path / 'r'}"]
    started = time.monotonic()
    done = CliRunner().invoke(trainer, [*options, "--json"])
    assert done.exit_code == 3
    assert f"No image server answers at {process.address}" in done.output
    assert time.monotonic() - started < 10


def test_too_many_missing_images_stop_training(config: FitConfig, transport: MockTransport) -> None:
    half = MockTransport({i: v for i, v in transport.vectors.items() if i % 2})
    with pytest.raises(TooManyMissingImages, match="NOT_FOUND"):
        fit(config, half)
    assert fit(replace(config, max_missing=1.0, epochs=1), half)["train"]["images_missing"]["NOT_FOUND"] > 0


def test_not_one_image_stops_a_run_of_any_size(config: FitConfig, tmp_path: Path) -> None:
    few = make_samples(tmp_path, 6, 200, {i: 1100 + i for i in range(6)})
    config = replace(config, samples=str(few), epochs=1, batch_size=64)
    elsewhere = MockTransport({100 + i: np.ones(8, dtype=np.float16) for i in range(6)})
    with pytest.raises(
        TooManyMissingImages, match=r"Not one of the .*NOT_FOUND \d+, such as that of id 110\d.*same ids"
    ):
        fit(config, elsewhere)
    said: list[str] = []
    one = MockTransport({1100 + i: np.ones(8, dtype=np.float16) for i in range(5)})
    fit(replace(config, max_missing=0.5), one, announce=said.append)
    assert [text for text in said if "missing" in text and "such as that of id 1105" in text]


def test_not_one_image_stops_evaluate_and_score(
    config: FitConfig, transport: MockTransport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit(replace(config, epochs=1), transport)
    served = {i + 10_000: v for i, v in transport.vectors.items()}
    client = "crossmedia.trainer.images.open_images.ImageClient"
    monkeypatch.setattr(client, lambda *_, **__: ImageClient(MockTransport(served)))
    score = ["score", config.out, f"--samples={config.samples}", f"--out={tmp_path / 's.parquet'}"]
    for command in (["evaluate", config.out], score):
        done = CliRunner().invoke(trainer, command)
        assert done.exit_code == 5, done.output
        assert "Not one of the" in done.output
    assert not (tmp_path / "s.parquet").exists()
    served |= {i: v for i, v in transport.vectors.items() if i != 170}
    for command in (["evaluate", config.out], score):
        done = CliRunner().invoke(trainer, command)
        assert done.exit_code == 0, done.output
        assert "missing (NOT_FOUND" in done.stderr
        assert "such as that of id 170" in done.stderr


def test_a_version_that_changes_stops_training(config: FitConfig, transport: MockTransport) -> None:
    def change(done: int, total: int, what: str) -> None:
        transport.version = "mock@999999999999+none@000000000000/8"

    with pytest.raises(VersionMismatch):
        fit(config, transport, change)


def test_a_generation_that_changes_is_reported(config: FitConfig, transport: MockTransport) -> None:
    def replace_photo(done: int, total: int, what: str) -> None:
        transport.generation = 2

    result = fit(replace(config, epochs=1), transport, replace_photo)
    assert (result["generations_at_start"], result["generations"]) == ({"image": 1}, {"image": 2})


def test_compare_skips_what_is_done_and_says_what_came_out(config: FitConfig, transport: MockTransport) -> None:
    small = CompareConfig(replace(config, epochs=2), ("embedding_mlp",), 2, Path(config.out) / "results.jsonl")
    said: list[str] = []
    first = compare(small, transport, said.append)
    assert first["sentence"].startswith("Best on the test rows: embedding_mlp learning_rate=0.003 with images (AUC ")
    assert ". The pictures helped embedding_mlp learning_rate=0.003 (AUC +" in first["sentence"]
    again = compare(small, transport, said.append)
    assert again["rows"] == first["rows"]
    assert sum("training" in text for text in said) == sum("done before" in text for text in said) == 4
    transport.version = "mock@999999999999+none@000000000000/8"
    with pytest.raises(BadInput, match="holds a comparison of other samples, vectors or settings"):
        compare(replace(small, seeds=1), transport, said.append)
    small = replace(small, base=replace(small.base, overwrite=True))
    compare(replace(small, seeds=1), transport, said.append)  # other vectors are another line
    assert said[-3:-1] == [
        "run 1 of 2, embedding_mlp-ids-0: done before",
        "run 2 of 2, embedding_mlp-images-0: training",
    ]


def test_samples_without_images_are_compared_without_a_server(samples: Path, tmp_path: Path) -> None:
    schema = SCHEMA.replace('image = "image"\n', "").replace('path = "', f'path = "{samples.parent}/')
    (tmp_path / "samples.toml").write_text(schema)
    build_samples(load_schema(tmp_path / "samples.toml"), tmp_path / "plain")
    base = ["compare", f"--samples={tmp_path / 'plain'}", "--server=localhost:1", "--models=din", "--seeds=1"]
    options = [*base, "--epochs=1", f"--out={tmp_path / 'runs'}", "--data=plain"]
    done = CliRunner().invoke(trainer, options)
    assert done.exit_code == 0, done.output
    assert "Best on the test rows: din ids only" in done.output
    assert "The samples have no images to compare with." in done.output
    *means, only = [json.loads(line) for line in (tmp_path / "runs" / "results.jsonl").read_text().splitlines()]
    assert (only["data"], only["images"], only["vector_version"]) == ("plain", False, "")
    assert [line["model"] for line in means] == ["constant", "item mean", "item + user mean"]
    page = tmp_path / "page.html"
    done = CliRunner().invoke(trainer, ["report", str(tmp_path / "runs"), f"--out={page}"])
    assert done.exit_code == 0, done.output
    assert "The samples have no images." in page.read_text()


def test_pictures_of_which_there_are_none_are_said(samples: Path, tmp_path: Path) -> None:
    """A column of images that is empty is no reason to ask a server, and then to train without a picture."""
    with open(samples.parent / "items.csv", newline="") as file:
        rows = [row | {"image": ""} for row in csv.DictReader(file)]
    with open(tmp_path / "items.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    schema = SCHEMA.replace('path = "items.csv"', f'path = "{tmp_path}/items.csv"')
    schema = schema.replace('path = "impressions', f'path = "{samples.parent}/impressions')
    (tmp_path / "samples.toml").write_text(schema)
    report = build_samples(load_schema(tmp_path / "samples.toml"), tmp_path / "none")
    assert report.notes["items_of_which_not_one_has_an_image"] == len(rows)
    arguments = [
        "fit",
        f"--samples={tmp_path / 'none'}",
        "--images",
        "--server=localhost:1",
        f"--out={tmp_path / 'run'}",
    ]
    done = CliRunner().invoke(trainer, arguments)
    assert done.exit_code == 2
    assert "have no images, and no vectors by item; train with" in done.output


def test_metrics_of_held_out_items(samples: Path, tmp_path: Path) -> None:
    split = "[split]\nhold_out_items = 0.2\nhold_out_seed = 1"
    schema = SCHEMA.replace("[split]", split).replace('path = "', f'path = "{samples.parent}/')
    (tmp_path / "samples.toml").write_text(schema)
    build_samples(load_schema(tmp_path / "samples.toml"), tmp_path / "held")
    opened = Samples(tmp_path / "held")
    rows = opened.frame("test")
    out = np.asarray(rows["held_out"]) > 0
    assert 0 < out.sum() < len(out)
    found = measure(opened, "test", np.linspace(0, 1, len(out), dtype=np.float32))
    assert found["held_out_items"]["rows"] == out.sum()
    assert found["held_out_items"]["auc"] != found["all"]["auc"]
    assert "held_out_items" not in measure(opened, "validation", np.zeros(opened.rows("validation"), dtype=np.float32))


def test_users_that_training_does_not_know_are_no_user_of_gauc(tmp_path: Path) -> None:
    """They share one place: an AUC over the rows of all of them would be nobody's."""
    with open(tmp_path / "impressions.csv", "w", newline="") as file:
        rows = [(f"u{n % 4}", f"i{n % 7}", 1000 + n, int(n % 3 == 0)) for n in range(80)]
        rows += [(f"new{n}" if n % 2 else "u1", f"i{n % 7}", 2000 + n, int(n % 5 == 0)) for n in range(20)]
        csv.writer(file).writerows([("user", "item", "time", "click"), *rows])
    plain = SCHEMA[: SCHEMA.index("[items]")] + SCHEMA[SCHEMA.index("[split]") :]
    (tmp_path / "samples.toml").write_text(plain)
    build_samples(load_schema(tmp_path / "samples.toml"), tmp_path / "samples")
    opened = Samples(tmp_path / "samples")
    users = np.asarray(opened.frame("test")["user_id"])
    assert (users == 0).sum() == 10
    scores = np.random.default_rng(0).random(20).astype(np.float32)
    found = measure(opened, "test", scores)["all"]
    of_one = [n for n in range(20) if users[n]]
    assert (found["rows"], found["gauc_users"]) == (20, 1)
    assert found["gauc"] == auc(np.array([float(rows[80 + n][3]) for n in of_one]), scores[of_one])


@pytest.mark.parametrize("batch_size", [64, 10_000])
def test_a_model_that_diverges_is_said_and_leaves_no_run(config: FitConfig, batch_size: int) -> None:
    """In the next step, and after the only one of an epoch, whose own loss was a number still."""
    config = replace(config, images=False, learning_rate=1e38, batch_size=batch_size, epochs=1)
    with pytest.raises(TrainingDiverged, match=r"The loss is nan at step 1; .* below 1e\+38\.$"):
        fit(config)
    assert not (Path(config.out) / "metrics.json").exists()


def test_the_best_epoch_is_the_one_of_the_best_auc(config: FitConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """An AUC of 0 is one, and no missing AUC."""
    found = iter([0.0, 0.3, 0.2])

    def measured(samples: Samples, split: str, *rest: Any) -> dict[str, Any]:
        return {"all": {"auc": next(found), "log_loss": 0.7, "rows": 10, "positives": 5, "base_log_loss": 0.7}}

    monkeypatch.setattr("crossmedia.trainer.fit.measure", measured)
    assert fit(replace(config, images=False, epochs=3, patience=9, averaging=False))["train"]["best_epoch"] == 2


def row(mean: float, std: float | None, seeds: int) -> dict[str, Any]:
    gain = {"auc": {"mean": 0.7, "std": std}, "auc_gain": {"mean": mean, "std": std}, "pairs": seeds}
    about = {"model": "din", "images": True, "spaces": ["image"], "baseline": False, "seeds": seeds}
    return {**about, "all": gain, "unseen_items": {"auc_gain": None}}


@pytest.mark.parametrize(
    ("mean", "std", "seeds", "verdict"),
    [
        (0.01, 0.002, 3, "helped din"),
        (-0.01, 0.002, 3, "hurt din"),
        (0.001, 0.002, 3, "had no effect that so few seeds can tell from chance on din"),
        (
            0.003,
            0.0021,
            3,
            "had no effect that so few seeds can tell from chance on din",
        ),  # 2.5 standard errors, of three seeds only
        (0.003, 0.0021, 5, "helped din"),
        (0.01, None, 1, "One seed cannot tell"),
    ],
)
def test_the_sentence(mean: float, std: float | None, seeds: int, verdict: str) -> None:
    assert verdict in sentence([row(mean, std, seeds)])


def test_wrong_settings_are_said(config: FitConfig, samples: Path) -> None:
    with pytest.raises(BadInput, match="There is no model"):
        fit(replace(config, model="dim"))
    with pytest.raises(BadInput, match="There is no device 'gpu'"):
        fit(replace(config, device="gpu", images=False))
    for option in ("--seed=-1", "--learning-rate=-1"):
        done = CliRunner().invoke(trainer, ["fit", f"--samples={samples}", option])
        assert (done.exit_code, "is not in the range" in done.output) == (2, True)
    done = CliRunner().invoke(trainer, ["compare", f"--samples={samples.parent}", "--json"])
    assert done.exit_code == 2
    assert "is no samples folder" in done.output


def test_a_program_trains_as_the_command_does(
    samples: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same settings, of paths; a log of 1,800 rows, which the defaults of large logs give 2 steps an epoch."""
    monkeypatch.chdir(tmp_path)
    more: dict[str, Any] = {"images": False, "width": 4, "patience": 1, "epochs": 2}
    config = FitConfig.suited_to(samples, out=tmp_path / "python", **more)
    command = [f"--samples={samples}", "--no-images", "--width=4", "--patience=1", "--epochs=2", "--out=command"]
    assert CliRunner().invoke(trainer, ["fit", *command]).exit_code == 0
    result = fit(config)
    assert not [record for record in caplog.records if "steps" in record.message]
    kept = [json.loads((tmp_path / run / "config.json").read_text())["fit"] for run in ("python", "command")]
    assert kept[0] | {"out": ""} == kept[1] | {"out": ""}
    assert kept[0]["batch_size"] == 32
    assert result["test"] == json.loads((tmp_path / "command" / "metrics.json").read_text())["test"]
    fit(FitConfig(str(samples), images=False, width=4, epochs=1))
    assert "batch_size 1024, and epochs is 1: so few steps show little" in caplog.text


def test_with_a_cache_the_same_is_trained_with_fewer_calls(config: FitConfig, transport: MockTransport) -> None:
    plain = fit(replace(config, epochs=2), transport)
    asked = sum(len(request.image_ids) // 8 for request in transport.requests)
    transport.requests.clear()
    cached = fit(replace(config, epochs=2, cache="1MB", out=config.out + "-cached"), transport)
    asked_with_cache = sum(len(request.image_ids) // 8 for request in transport.requests)
    assert cached["test"] == plain["test"]
    assert asked_with_cache < asked / 10


@pytest.mark.parametrize("size", ["lots", "-1", "1XB"])
def test_what_is_no_size_of_a_cache_is_refused(config: FitConfig, size: str) -> None:
    with pytest.raises(BadInput, match="cache must be a size such as 512MB or 2GiB"):
        fit(replace(config, cache=size))


def test_a_cache_that_nothing_would_be_in_is_refused_in_words(
    config: FitConfig, transport: MockTransport, store: Path
) -> None:
    with pytest.raises(BadInput, match="--cache 1GB is given, and nothing is fetched that could be kept"):
        fit(replace(config, store=str(store), cache="1GB"))
    for size in ("10kB", "100TB"):
        with pytest.raises(BadInput, match=r"--cache is \d+; it must be a whole number of bytes: 0 for no cache"):
            fit(replace(config, cache=size), transport)
