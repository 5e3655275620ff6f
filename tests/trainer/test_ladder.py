"""What the models do over real samples: every one trained, exported, scored; warm starts, labels, regulariser."""

from __future__ import annotations

import csv
import json
import logging
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner
from concept_cards import card_of, version_of
from conftest import ROOT

from crossmedia.errors import BadInput, VersionMismatch
from crossmedia.features.reading.samples import Samples
from crossmedia.features.schema import load_schema
from crossmedia.features.writing.build import build_samples
from crossmedia.imgserver.client import ImageClient, MockTransport
from crossmedia.trainer.cli import trainer
from crossmedia.trainer.evaluate import predict
from crossmedia.trainer.export.exported import Exported, export_model
from crossmedia.trainer.feed import Feed
from crossmedia.trainer.fit import FitConfig, fit
from crossmedia.trainer.images.image_head import ImageHead
from crossmedia.trainer.images.spaces import Spaces
from crossmedia.trainer.layers.inputs import InputSpec
from crossmedia.trainer.models import MODELS, make, model_class, options_of
from crossmedia.trainer.models.base import EmbeddingModel
from crossmedia.trainer.models.listing import about
from crossmedia.trainer.models.rocket import Rocket
from crossmedia.trainer.runs.checkpoint import load_model
from crossmedia.trainer.scorer import Scorer
from crossmedia.trainer.tensors import to_tensors
from crossmedia.trainer.training.id_dropout import without_ids
from crossmedia.trainer.training.regularise import mini_batch_aware

ITEMS, ROWS = 60, 1500
SCHEMA = """
[log]
path = "impressions.csv"
user = "user"
item = "item"
time = "time"
labels = { click = "click", buy = "buy" }
[items]
path = "items.csv"
item = "item"
image = "image"
ids = ["shop"]
text = ["title"]
[users]
path = "users.csv"
user = "user"
ids = ["city"]
[behaviours]
from_log = { clicked = "click == 1", bought = "buy == 1" }
max_length = 5
[split]
method = "time"
test = 0.2
validation = 0.1
"""
Raw = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clicks that item and user explain; some items have no image and no title."""
    folder = tmp_path_factory.mktemp("ladder")
    rng = np.random.default_rng(5)
    taste, charm = rng.normal(size=30), rng.normal(size=ITEMS)
    with open(folder / "impressions.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["user", "item", "time", "click", "buy"])
        for n in range(ROWS):
            user, item = int(rng.integers(30)), int(rng.integers(ITEMS))
            click = rng.random() < 1 / (1 + np.exp(-2 * charm[item] - taste[user]))
            writer.writerow([f"u{user}", f"i{item}", 1000 + 10 * n, int(click), int(click and rng.random() < 0.4)])
    with open(folder / "items.csv", "w", newline="") as file:
        rows = [
            (f"i{i}", "" if i % 7 == 0 else i, f"s{i % 4}", "" if i % 5 == 0 else f"Red Thing {i % 3}")
            for i in range(ITEMS)
        ]
        csv.writer(file).writerows([("item", "image", "shop", "title"), *rows])
    with open(folder / "users.csv", "w", newline="") as file:
        csv.writer(file).writerows([("user", "city"), *((f"u{u}", f"c{u % 3}") for u in range(30))])
    (folder / "samples.toml").write_text(SCHEMA)
    build_samples(load_schema(folder / "samples.toml"), folder / "samples")
    np.save(folder / "vectors.npy", rng.normal(size=(ITEMS, 8)).astype(np.float16))
    return folder


@pytest.fixture
def transport(folder: Path) -> MockTransport:
    vectors = dict(enumerate(np.load(folder / "vectors.npy")))
    return MockTransport(
        vectors, version=version_of(8), card=card_of(8)
    )  # any model takes concepts, one takes no others


@pytest.fixture
def config(folder: Path, tmp_path: Path) -> FitConfig:
    return FitConfig(
        str(folder / "samples"), str(tmp_path / "run"), epochs=2, batch_size=64, learning_rate=3e-3, width=4, patience=9
    )


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("images", [True, False])
def test_every_model_is_trained_exported_and_gives_the_same_numbers(
    config: FitConfig, transport: MockTransport, model: str, images: bool, tmp_path: Path
) -> None:
    options = {"trees": 20} if model == "gbdt_lr" else {"auxiliary": 0.5} if model == "dien" else {}
    fit(replace(config, model=model, images=images, options=options), transport if images else None)
    samples, cpu = Samples(config.samples), torch.device("cpu")
    loaded, lineage, _ = load_model(config.out)
    of_run = pq.read_table(Path(config.out) / "predictions.parquet")["probability"].to_numpy()
    exported = Exported(export_model(config.out, samples, tmp_path / "exported.pt2"))
    assert exported.lineage.versions == ({"image": transport.version} if images else {})
    assert exported.lineage.inputs == lineage.inputs
    spaces = Spaces({"image": ImageHead(ImageClient(transport))} if images else {})
    for size in (64, 7):
        feed = Feed(samples, spaces, size, cpu)
        assert predict(loaded, feed, "test")[:, 0] == pytest.approx(of_run, abs=1e-5)
        assert predict(exported, feed, "test")[:, 0] == pytest.approx(of_run, abs=1e-5)


def raw_tables(folder: Path) -> tuple[list[dict[str, str]], Raw, Raw]:
    def rows(name: str) -> list[dict[str, str]]:
        with open(folder / name, newline="") as file:
            return list(csv.DictReader(file))

    items = {row["item"]: row for row in rows("items.csv")}
    return rows("impressions.csv"), items, {row["user"]: row for row in rows("users.csv")}


def item_columns(items: Raw, names: list[str]) -> dict[str, list[Any]]:
    return {
        "item_id": names,
        "shop": [items[name]["shop"] for name in names],
        "image_id": [int(items[name]["image"]) if items[name]["image"] else None for name in names],
    }


@pytest.mark.parametrize("model", ["din", "rocket", "dien", "lr", "gbdt_lr"])
def test_the_scorer_gives_the_numbers_of_trainer_score(
    config: FitConfig, transport: MockTransport, folder: Path, model: str, tmp_path: Path
) -> None:
    """From the raw tables: a user's behaviours and the candidates of one second, which are rows of the test part."""
    fit(replace(config, model=model, epochs=1, options={"trees": 5} if model == "gbdt_lr" else {}), transport)
    samples = Samples(config.samples)
    scores = pq.read_table(Path(config.out) / "predictions.parquet")["probability"].to_numpy()
    frame = samples.frame("test", ["timestamp", "raw_item_id", "user_id"]).to_pylist()
    log, items, users = raw_tables(folder)
    export_model(config.out, samples, tmp_path / "exported.pt2")
    with ImageClient(transport) as client:
        scorers = [
            Scorer.load(config.out, server=client),
            Scorer.load(tmp_path / "exported.pt2", server=client),
        ]
        for row in range(0, len(frame), 40):
            now = frame[row]["timestamp"]
            user = next(line["user"] for line in log if int(line["time"]) == now)
            before = [line for line in log if line["user"] == user and int(line["time"]) < now]
            done = [
                (line, name)
                for line in before
                for name, rule in (("clicked", "click"), ("bought", "buy"))
                if line[rule] == "1"
            ]
            history = item_columns(items, [line["item"] for line, _ in done])
            request = {"user_id": user, "city": users[user]["city"]}
            request |= {f"hist_{name}": values for name, values in history.items()}
            request |= {"hist_action": [name for _, name in done], "hist_time": [int(line["time"]) for line, _ in done]}
            # The row's own item among others: a candidate does not depend on the others.
            names = [frame[row]["raw_item_id"], "i0", "i7", "i59"]
            candidates = item_columns(items, names) | {"title": [items[name]["title"] for name in names]}
            for scorer in scorers:
                found = scorer.score(request, candidates, now_s=now)
                assert found.shape == (4,)
                assert found[0] == pytest.approx(scores[row], abs=1e-5)
        scorer = scorers[0]
        assert scorer.score({"user_id": "nobody"}, {"item_id": ["i1", "what"]}).shape == (2,)
        with pytest.raises(BadInput, match="have a column 'colour'; the model knows: item_id"):
            scorer.score({}, {"colour": ["red"]})
        with pytest.raises(BadInput, match="lists of several lengths"):
            scorer.score({}, {"item_id": ["i1", "i2"], "shop": ["s1"]})


def test_score_and_export_by_command(config: FitConfig, tmp_path: Path) -> None:
    fit(replace(config, images=False))
    runner = CliRunner()
    exported, out = tmp_path / "din.pt2", tmp_path / "scores.parquet"
    done = runner.invoke(trainer, ["export", config.out, f"--out={exported}"])
    assert done.exit_code == 0, done.output
    base = [f"--samples={config.samples}", "--json"]
    done = runner.invoke(trainer, ["score", config.out, *base, f"--out={out}"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.output)["rows"] == 300
    mine = pq.read_table(out)
    assert mine.column_names == ["timestamp", "raw_user_id", "raw_item_id", "label", "probability"]
    of_run = pq.read_table(Path(config.out) / "predictions.parquet")["probability"]
    assert np.array_equal(mine["probability"].to_numpy(), of_run.to_numpy())
    done = runner.invoke(trainer, ["score", str(exported), "--exported", *base, f"--out={out}"])
    assert done.exit_code == 0, done.output
    assert pq.read_table(out)["probability"].to_numpy() == pytest.approx(of_run.to_numpy(), abs=1e-6)
    for command in (["score", config.out, "--exported", *base], ["score", str(exported), *base]):
        done = runner.invoke(trainer, command)
        assert done.exit_code == 2
        assert "holds no exported model" in done.output or "no run folder" in done.output


@pytest.mark.parametrize("labels", [("click", "buy"), ("buy",), ("buy", "click")])
def test_scores_can_be_joined_with_the_log(
    config: FitConfig, folder: Path, labels: tuple[str, ...], tmp_path: Path
) -> None:
    """By user, item and time, users that training never saw too; each label stands beside its own probability."""
    log, _, _ = raw_tables(folder)
    with open(tmp_path / "impressions.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(log[0]))
        writer.writeheader()
        late = [{**row, "user": f"new{n}"} if n % 9 == 0 else row for n, row in enumerate(log[-250:])]
        writer.writerows([*log[:-250], *late])
    schema = SCHEMA.replace('path = "', f'path = "{folder}/')
    (tmp_path / "s.toml").write_text(schema.replace(f"{folder}/impressions", f"{tmp_path}/impressions"))
    build_samples(load_schema(tmp_path / "s.toml"), tmp_path / "samples")
    fit(replace(config, images=False, epochs=1, samples=str(tmp_path / "samples"), labels=labels))
    out = tmp_path / "scores.parquet"
    done = CliRunner().invoke(trainer, ["score", config.out, f"--samples={tmp_path / 'samples'}", f"--out={out}"])
    assert done.exit_code == 0, done.output
    found = pq.read_table(out)
    suffixes = ["", *(f"_{name}" for name in labels[1:])]
    named = [f"{what}{suffix}" for what in ("label", "probability") for suffix in suffixes]
    assert found.column_names == ["timestamp", "raw_user_id", "raw_item_id", *named]
    of_log = {(row["user"], row["item"], int(row["time"])): row for row in [*log[:-250], *late]}
    rows = found.to_pylist()
    assert len(rows) == 300
    for row in rows:
        logged = of_log[row["raw_user_id"], row["raw_item_id"], row["timestamp"]]
        assert [str(row[f"label{suffix}"]) for suffix in suffixes] == [logged[name] for name in labels]
    assert sum(row["raw_user_id"].startswith("new") for row in rows) == 28


def test_a_request_that_lacks_columns_is_said_once(
    config: FitConfig, transport: MockTransport, caplog: pytest.LogCaptureFixture
) -> None:
    fit(replace(config, epochs=1), transport)
    with ImageClient(transport) as client:
        scorer = Scorer.load(config.out, server=client)
        scorer.score({"user_id": "u1", "city": "c1"}, {"item_id": ["i1"], "shop": ["s1"], "title": ["red"]})
        first = [record.message for record in _of_scorer(caplog)]
        assert len(first) == 2
        assert "the user of a request lacks 'hist_item_id', 'hist_shop', 'hist_image_id'" in first[0]
        assert "the candidates of a request lack 'image_id'" in first[1]
        scorer.score({"user_id": "u1", "city": "c1"}, {"item_id": ["i1"], "shop": ["s1"], "title": ["red"]})
        assert len(_of_scorer(caplog)) == 2
        scorer.score({"user_id": "u1"}, {"item_id": ["i1"], "shop": ["s1"], "title": ["red"]})
        assert "lacks 'city'" in _of_scorer(caplog)[-1].message
        assert len(_of_scorer(caplog)) == 3


def test_images_of_a_request_by_the_names_of_a_manifest(
    config: FitConfig, transport: MockTransport, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In the history and among the candidates: the scores of their ids; a name that is in no manifest is said."""
    fit(replace(config, epochs=1), transport)
    names = {f"photo/{i}": i for i in range(ITEMS)}
    manifest = tmp_path / "m.parquet"
    pq.write_table(pa.table({"image_id": list(names.values()), "key": pa.array(names, pa.large_string())}), manifest)

    def request(images: list[Any], shown: list[Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        user: dict[str, Any] = {"user_id": "u1", "city": "c1", "hist_item_id": ["i3", "i4"], "hist_shop": ["s3", "s0"]}
        user |= {"hist_image_id": shown, "hist_action": ["clicked"] * 2, "hist_time": [5, 6]}
        return user, {"item_id": ["i1", "i2"], "shop": ["s1", "s2"], "title": ["red", None], "image_id": images}

    with ImageClient(transport) as client:
        by_id = Scorer.load(config.out, server=client)
        by_name = Scorer.load(config.out, server=client, manifest=manifest)
        expected = by_id.score(*request([1, None], [3, 4]), now_s=99)
        assert (expected != by_id.score(*request([None, None], [None, None]), now_s=99)).any()
        found = by_name.score(*request(["photo/1", None], ["photo/3", "photo/4"]), now_s=99)
        assert np.array_equal(found, expected)
        assert not _of_scorer(caplog)
        for _ in range(2):
            found = by_name.score(*request(["photo/1", "nobody"], ["photo/3", "photo/4"]), now_s=99)
            assert np.array_equal(found, expected)
        assert [record.message for record in _of_scorer(caplog)] == [
            "names of images that the manifest lacks: 'nobody' (1 of 2 in this request). They count as no image; "
            "logged again when there are ten times as many"
        ]
        many = ["photo/1", *(f"no {n}" for n in range(8)), "PHOTO/2"]
        by_name.score({"user_id": "u1"}, {"image_id": many}, now_s=99)
        lines = [record.message for record in _of_scorer(caplog) if "lacks: " in record.message]
        assert len(lines) == 2
        assert "lacks: 'no 0', 'no 1', 'no 2', … (9 of 10 in this request, 11 so far)" in lines[1]
        assert "1 of them is there in another letter case: 'PHOTO/2' is there as 'photo/2'" in lines[1]
        assert by_name.unmatched() == {"names of images that the manifest lacks": 11}
        with pytest.raises(BadInput, match=r"names of images in .*none\.parquet cannot be read"):
            Scorer.load(config.out, server=client, manifest=tmp_path / "none.parquet")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["score", "run", "--out=scores.csv"], "scores are written as Parquet. Give a name that ends in .parquet"),
        (["score", "run", "--out=scores"], "scores are written as Parquet"),
        (["score", "model.pt2"], "is a file and no run folder. If 'trainer export' wrote it, give --exported, too"),
        (["score", "run", "--exported"], "it is a folder. For a run folder leave out --exported"),
        (["evaluate", "model.pt2"], "is a file and no run folder"),
        (["export", "model.pt2"], "is a file and no run folder"),
    ],
)
def test_a_model_or_file_of_another_kind_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run").mkdir()
    Path("model.pt2").touch()
    done = CliRunner().invoke(trainer, arguments)
    assert done.exit_code == 2, done.output
    assert said in done.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.pt2", "run"]


def test_several_labels_are_trained_and_reported(config: FitConfig, tmp_path: Path) -> None:
    runner = CliRunner()
    base = [f"--samples={config.samples}", "--no-images", "--epochs=1", "--labels=click,buy", f"--out={tmp_path / 'r'}"]
    done = runner.invoke(trainer, ["fit", *base, "--model=embedding_mlp", "--set=hidden=16,8"])
    assert done.exit_code == 0, done.output
    assert "test, label buy: AUC" in done.output
    result = json.loads((tmp_path / "r" / "metrics.json").read_text())
    assert result["labels"]["click"]["test"] == result["test"]
    assert result["labels"]["buy"]["test"]["all"]["auc"] != result["test"]["all"]["auc"]
    assert pq.read_table(tmp_path / "r" / "predictions.parquet").column_names == ["probability", "probability_buy"]
    with pytest.raises(BadInput, match="no label 'like'; there are: click, buy"):
        fit(replace(config, images=False, labels=("like",)))
    with pytest.raises(BadInput, match="re-calibrated for one label only"):
        fit(replace(config, images=False, labels=("click", "buy"), negative_rate=0.5))
    with pytest.raises(BadInput, match="one label"):
        fit(replace(config, images=False, labels=("click", "buy"), model="gbdt_lr"))


def test_a_resumed_run_draws_what_the_whole_run_drew(config: FitConfig, transport: MockTransport) -> None:
    """DIEN draws negatives for its auxiliary loss, negatives are sampled, ids are hidden: all the same after a kill."""
    config = replace(config, model="dien", negative_rate=0.5, id_dropout=0.3, epochs=3)
    whole = fit(config, transport)

    class Killed(Exception):
        pass

    def kill(done: int, total: int, what: str) -> None:
        if what.startswith("epoch 2"):
            raise Killed

    again = replace(config, out=config.out + "-again")
    with pytest.raises(Killed):
        fit(again, transport, kill)
    assert fit(again, transport)["test"] == whole["test"]


def test_sampled_negatives_leave_the_predictions_calibrated(config: FitConfig) -> None:
    config = replace(config, images=False, model="embedding_mlp", epochs=3)
    found = {rate: fit(replace(config, negative_rate=rate, out=f"{config.out}-{rate}")) for rate in (1.0, 0.25)}
    means = [result["test"]["all"]["calibration"] for result in found.values()]
    assert means[1] == pytest.approx(means[0], abs=0.15)  # without it, four times the odds: above 1.5


@pytest.mark.parametrize("model", ["lr", "mlr", "gbdt_lr", "din", "rocket"])
@pytest.mark.parametrize("partial", [True, False])
def test_a_warm_start_takes_all_or_all_but_the_ids(
    config: FitConfig, folder: Path, model: str, partial: bool, tmp_path: Path
) -> None:
    """The next day's samples extend the vocabulary; a full warm start keeps each id's weights at its place."""
    options: dict[str, Any] = {"trees": 5} if model == "gbdt_lr" else {}
    if model in ("lr", "mlr"):
        options = {"l1": 0.0}
    config = replace(config, images=False, model=model, options=options)
    fit(config)
    before, _, _ = load_model(config.out)
    schema = SCHEMA.replace('path = "', f'path = "{folder}/').replace("test = 0.2", "test = 0.1")
    (tmp_path / "next.toml").write_text(schema)
    build_samples(load_schema(tmp_path / "next.toml"), tmp_path / "next", extend=config.samples)
    still = {"alpha": 1e-9} if model in ("lr", "mlr", "gbdt_lr") else {}
    following = replace(
        config,
        samples=str(tmp_path / "next"),
        out=str(tmp_path / "b"),
        learning_rate=0.0,
        options={**options, **still},
        warm_start=config.out,
        warm_up="partial" if partial else "full",
    )
    fit(replace(following, epochs=1))
    after = dict(load_model(following.out)[0].named_parameters())
    ids = before.id_rows()
    for name, value in before.named_parameters():
        found = after[name][: len(value)] if name in ids else after[name]
        same = found.shape == value.shape and torch.allclose(found, value, atol=1e-6)
        if name in ids:
            assert same != partial or not value.any(), name
        elif "leaf_weight" not in name:
            assert same, name
    with pytest.raises(BadInput, match="another shape"):
        fit(replace(following, model="embedding_mlp", options={}, out=str(tmp_path / "c")))
    with pytest.raises(VersionMismatch, match="no images"):
        fit(
            replace(following, images=True, out=str(tmp_path / "d")),
            MockTransport(dict(enumerate(np.load(folder / "vectors.npy")))),
        )


def test_ids_of_other_samples_are_no_warm_start(config: FitConfig, folder: Path, tmp_path: Path) -> None:
    config = replace(config, images=False, epochs=1)
    fit(config)
    schema = SCHEMA.replace('path = "', f'path = "{folder}/').replace("test = 0.2", "test = 0.5")
    (tmp_path / "other.toml").write_text(schema)
    build_samples(load_schema(tmp_path / "other.toml"), tmp_path / "other")
    other = replace(config, samples=str(tmp_path / "other"), out=str(tmp_path / "b"), warm_start=config.out)
    with pytest.raises(BadInput, match="--warm-up partial"):
        fit(replace(other, warm_up="full"))
    fit(other)


def test_a_new_column_of_ids_has_no_weights_to_start_from(config: FitConfig, folder: Path, tmp_path: Path) -> None:
    config = replace(config, images=False, epochs=1, model="lr")
    fit(config)
    (tmp_path / "more.toml").write_text(
        SCHEMA.replace('path = "', f'path = "{folder}/').replace('["shop"]', '["shop", "image"]')
    )
    build_samples(load_schema(tmp_path / "more.toml"), tmp_path / "more", extend=config.samples)
    more = replace(config, samples=str(tmp_path / "more"), out=str(tmp_path / "b"), warm_start=config.out)
    with pytest.raises(BadInput, match="has no weights of 'image', a column of"):
        fit(replace(more, warm_up="full"))
    fit(more)


def test_mini_batch_aware_regularisation_is_its_formula(config: FitConfig) -> None:
    samples = Samples(config.samples)
    model = make("embedding_mlp", InputSpec.of(samples, {}), 4, {})
    assert isinstance(model, EmbeddingModel)
    batch = to_tensors(next(samples.batches("train", 8)), torch.device("cpu"))
    gradients = []
    for strength in (0.0, 0.5):
        model.zero_grad()
        model.loss(batch, {}).backward()  # type: ignore[no-untyped-call]
        mini_batch_aware(model, samples, strength)(batch)
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    counts = samples.occurrences()
    places = {name: set(found.tolist()) for name, found in model.inputs.places(batch).items()}
    for name, table in model.inputs.tables.items():
        grown = gradients[1][f"inputs.tables.{name}.weight"] - gradients[0][f"inputs.tables.{name}.weight"]
        assert isinstance(table, torch.nn.Embedding)
        weight = table.weight.detach()
        for row in range(len(weight)):
            pull = 0.5 / max(int(counts[name][row]), 1) if row in places[name] else 0.0
            assert torch.allclose(grown[row], pull * weight[row], atol=1e-6), (name, row)
    for name in set(gradients[0]) - {f"inputs.tables.{table}.weight" for table in model.inputs.tables}:
        assert torch.equal(gradients[0][name], gradients[1][name])
    with pytest.raises(BadInput, match="needs a model that has embeddings"):
        mini_batch_aware(make("lr", model.spec, 4, {}), samples, 0.5)


def test_a_forgotten_item_is_pulled_as_often_as_ids_are_forgotten(config: FitConfig) -> None:
    """Place 0 is in no training row, and with id dropout in each batch: lambda a step would hold it at 0."""
    samples = Samples(config.samples)
    model = make("embedding_mlp", InputSpec.of(samples, {}), 4, {})
    assert isinstance(model, EmbeddingModel)
    torch.manual_seed(0)
    batch = without_ids(to_tensors(next(samples.batches("train", 8)), torch.device("cpu")), 0.4)
    counts = samples.occurrences()
    for name in ("item_id", "image_id"):
        assert 0 in model.inputs.places(batch)[name]
        grown = []
        for strength in (0.0, 0.5):
            model.zero_grad()
            model.loss(batch, {}).backward()  # type: ignore[no-untyped-call]
            mini_batch_aware(model, samples, strength, 0.4)(batch)
            gradient = model.inputs.tables[name].weight.grad
            assert isinstance(gradient, torch.Tensor)
            grown.append(gradient[0].clone())
        weight = model.inputs.tables[name].weight
        assert isinstance(weight, torch.Tensor)
        forgotten = counts[name][0] + round(0.4 * counts[name][1:].sum())
        assert torch.allclose(grown[1] - grown[0], 0.5 / forgotten * weight[0].detach(), atol=1e-7)


def test_the_group_penalty_of_mlr_drops_features(config: FitConfig) -> None:
    kept = {}
    for l21 in (0.0, 0.01):
        options = {"l1": 0.0, "l21": l21, "regions": 4}
        result = fit(replace(config, images=False, model="mlr", options=options, overwrite=True))
        kept[l21] = result["notes"]["features_kept"]
        weight = dict(load_model(config.out)[0].named_parameters())["sparse.table.weight"]
        assert int((weight != 0).any(dim=1).sum()) == kept[l21]
        # A group penalty drops a feature with all its weights, or keeps them all.
        assert ((weight != 0).all(dim=1) | (weight == 0).all(dim=1)).all()
    assert kept[0.01] < 0.7 * kept[0.0]


def test_rocket_reports_its_booster(config: FitConfig, transport: MockTransport) -> None:
    result = fit(replace(config, model="rocket"), transport)
    assert set(result["booster"]["test"]) == set(result["test"])
    assert isinstance(load_model(config.out)[0], Rocket)


def test_models_are_listed_with_their_options() -> None:
    found = json.loads(CliRunner().invoke(trainer, ["models", "--json"]).output)
    assert list(found) == list(MODELS)
    assert all(entry["about"].endswith(".") and entry["paper"] for entry in found.values())
    assert found["mlr"]["options"]["regions"] == 12
    assert "crosses" in found["mlr"]["options"]
    text = CliRunner().invoke(trainer, ["models"]).output
    assert "hidden=200,80" in text
    assert "light.NAME" in text


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_listed_as_its_class_is(name: str) -> None:
    """The list is read from the files, which nobody runs."""
    cls = model_class(name)
    assert about(name) == ((cls.__doc__ or "").splitlines()[0], cls.paper, options_of(name))


def test_a_model_whose_file_does_not_tell_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "from crossmedia.trainer.models.din import DIN\nWIDE = (8, 4)\n\nclass Wide(DIN):\n"
    text += '    """A model."""\n    def __init__(self, spec, *, hidden=WIDE, **options): ...\n'
    (tmp_path / "wide_model.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(MODELS, "wide", "wide_model:Wide")
    assert about("wide").options == {**options_of("din"), "hidden": (8, 4)}


def test_the_guides_configuration_trains(config: FitConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The block with [trainer.fit], as it stands, but for the folders and the run to start from."""
    blocks = re.findall(r"```toml\n(.*?)```", (ROOT / "docs" / "guide.md").read_text(), re.DOTALL)
    (block,) = (block for block in blocks if "[trainer.fit]" in block)
    fit(replace(config, model="rocket", images=False, epochs=1, width=16, labels=("click", "buy")))
    block = block.replace('"samples"', json.dumps(config.samples)).replace("runs/yesterday", config.out)
    (tmp_path / "crossmedia.toml").write_text(block)
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(trainer, ["fit", "--no-images", "--epochs=1", "--batch-size=64", "--out=next"])
    assert done.exit_code == 0, done.output
    saved = json.loads((tmp_path / "next" / "config.json").read_text())["fit"]
    assert saved["options"] == {"light": "embedding_mlp", "booster": "din", "hint": 0.1}
    assert (saved["labels"], saved["embedding_l2"], saved["warm_up"]) == (["click", "buy"], 0.1, "partial")
    assert "test, booster: AUC" in done.output


def _of_scorer(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name != "crossmedia.trainer.fit"]
