"""Every model over every kind of column and two spaces of vectors: trained, evaluated, scored, exported, served."""

from __future__ import annotations

import csv
import json
import logging
import re
import shutil
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner
from conftest import copy_store
from model_batches import make_batch
from shop_samples import item_columns, make_shop, transports

from crossmedia.errors import BadInput, TooManyMissingImages, VersionMismatch
from crossmedia.features.reading.samples import Samples
from crossmedia.imgserver import open_local
from crossmedia.imgserver.client import ImageClient, MockTransport
from crossmedia.imgserver.head import fit_pca
from crossmedia.imgserver.offline.head_vectors import apply_head
from crossmedia.imgserver.storage.store import Store
from crossmedia.trainer.cli import trainer
from crossmedia.trainer.compare import CompareConfig, compare
from crossmedia.trainer.evaluate import evaluate, predict
from crossmedia.trainer.export.exported import Exported, export_model
from crossmedia.trainer.feed import Feed
from crossmedia.trainer.fit import FitConfig, fit
from crossmedia.trainer.images.image_head import ImageHead
from crossmedia.trainer.images.open_images import load_head
from crossmedia.trainer.images.places import Sources, learning_space
from crossmedia.trainer.images.spaces import Spaces
from crossmedia.trainer.layers.spaces import SpaceInput
from crossmedia.trainer.models import MODELS
from crossmedia.trainer.options import parse_options_of
from crossmedia.trainer.report.item_photos import item_photos
from crossmedia.trainer.report.summary import vectors_text
from crossmedia.trainer.runs.checkpoint import CONFIG, document_of, load_model
from crossmedia.trainer.runs.sealed import sealed_json
from crossmedia.trainer.scorer import Scorer
from crossmedia.trainer.tensors import Bag, ImageVectors
from crossmedia.version import Version

CPU = torch.device("cpu")
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((name, {"trees": 10} if name == "gbdt_lr" else {}) for name in MODELS),
    *(("din", {"pooling": pooling}) for pooling in ("max", "attention")),
    ("lr", {"crosses": "hist_item_id*item_id slot*image_id"}),
]
Transports = dict[str, MockTransport]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shop(tmp_path_factory.mktemp("shop"))


@pytest.fixture
def given() -> Transports:
    return transports()


@pytest.fixture
def config(folder: Path, tmp_path: Path) -> FitConfig:
    return FitConfig(
        str(folder), str(tmp_path / "run"), epochs=1, batch_size=64, learning_rate=3e-3, width=4, max_missing=0.5
    )


def spaces_of(given: Transports) -> Spaces:
    return Spaces({name: ImageHead(ImageClient(transport)) for name, transport in given.items()})


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def request(folder: Path, now: int, shown: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The request that a row of the log is, from the raw tables; its item stands among others."""
    log, items, users = (rows(folder.parent / f"{name}.csv") for name in ("impressions", "items", "users"))
    row = next(line for line in log if int(line["time"]) == now)
    before = [line for line in log if line["user"] == row["user"] and int(line["time"]) < now]
    done = [
        (line, name) for line in before for name, rule in (("clicked", "click"), ("bought", "buy")) if line[rule] == "1"
    ]
    person = users[int(row["user"])]
    user: dict[str, Any] = {
        "user_id": int(row["user"]),
        "city": person["city"],
        "interests": person["interests"] or None,
    }
    user |= {"age": float(person["age"]) if person["age"] else None, "slot": row["slot"] or None}
    user |= {"price_shown": float(row["price_shown"]) if row["price_shown"] else None}
    history = item_columns([items[int(line["item"])] for line, _ in done])
    user |= {f"hist_{name}": values for name, values in history.items()}
    user |= {"hist_action": [name for _, name in done], "hist_time": [int(line["time"]) for line, _ in done]}
    candidates = [items[int(item)] for item in shown]
    return user, item_columns(candidates) | {"title": [item["title"] or None for item in candidates]}


@pytest.mark.parametrize(("model", "options"), VARIANTS)
def test_every_model_gives_the_same_numbers_by_every_way(
    config: FitConfig, given: Transports, folder: Path, model: str, options: dict[str, Any], tmp_path: Path
) -> None:
    result = fit(replace(config, model=model, options=options), given)
    assert result["vector_version"] == ", ".join(f"{name}={found.version}" for name, found in given.items())
    of_run = pq.read_table(Path(config.out) / "predictions.parquet")["probability"].to_numpy()
    assert len(np.unique(of_run)) > 200
    samples = Samples(config.samples)
    loaded, lineage, _ = load_model(config.out)
    assert lineage.versions == {name: found.version for name, found in given.items()}
    file = export_model(config.out, samples, tmp_path / "model.pt2")
    exported = Exported(file)
    assert exported.lineage == lineage
    for size in (64, 7):
        feed = Feed(samples, spaces_of(given), size, CPU)
        assert predict(loaded, feed, "test")[:, 0] == pytest.approx(of_run, abs=1e-5)
        assert predict(exported, feed, "test")[:, 0] == pytest.approx(of_run, abs=1e-5)
    clients = {name: ImageClient(transport) for name, transport in given.items()}
    frame = samples.frame("test", ["timestamp", "raw_item_id"]).to_pylist()
    for scorer in (Scorer.load(config.out, server=clients), Scorer.load(file, server=clients)):
        for row in range(0, len(frame), 60):
            now = frame[row]["timestamp"]
            found = scorer.score(*request(folder, now, [frame[row]["raw_item_id"], "0", "7", "59"]), now_s=now)
            assert found[0] == pytest.approx(of_run[row], abs=1e-5)


def test_what_each_kind_of_column_says_reaches_the_score(config: FitConfig, given: Transports, folder: Path) -> None:
    fit(config, given)
    scorer = Scorer.load(config.out, server={name: ImageClient(found) for name, found in given.items()})
    of_user = ("slot", "price_shown", "age", "interests")
    times = Samples(config.samples).frame("test", ["timestamp"])["timestamp"].to_pylist()
    now, (user, candidates) = next(
        (now, found)
        for now in times
        if all((found := request(folder, now, ["27", "28"]))[0][name] for name in (*of_user, "hist_item_id"))
    )
    before = scorer.score(user, candidates, now_s=now)
    for column in (*of_user, "hist_price", "hist_tags", "hist_image_id", "hist_stars"):
        other = [None] * len(user[column]) if column.startswith("hist_") else None
        assert (scorer.score(user | {column: other}, candidates, now_s=now) != before).any(), column
    for column in ("price", "stars", "tags", "title", "image_id", "item_id"):
        assert (scorer.score(user, candidates | {column: [None, None]}, now_s=now) != before).any(), column
    one = candidates | {"image_id": [ids[:1] for ids in candidates["image_id"]]}
    assert (scorer.score(user, one, now_s=now) != before).any()


def test_a_space_that_is_not_named_is_left_out(config: FitConfig, given: Transports) -> None:
    result = fit(config, {"title": given["title"]})
    assert load_model(config.out)[1].inputs.spaces == {"title": 6}
    assert result["vector_version"] == f"title={given['title'].version}"
    assert not given["photo"].requests


def test_vectors_of_one_version_by_images_and_by_items_are_doubted(
    config: FitConfig, given: Transports, caplog: pytest.LogCaptureFixture
) -> None:
    fit(config, given)
    assert "of one version" not in caplog.text
    fit(replace(config, out=f"{config.out}-2"), {"photo": given["photo"], "title": given["photo"]})
    assert "The spaces photo and title have vectors of one version, mock@111111111111" in caplog.text


def test_vectors_of_another_scale_are_doubted(config: FitConfig, given: Transports) -> None:
    fit(config, given)
    given["title"].vectors = {key: vector / 10 for key, vector in given["title"].vectors.items()}
    doubts = fit(replace(config, out=f"{config.out}-2"), given)["doubts"]
    (said,) = [doubt for doubt in doubts if "mean square" in doubt]
    assert said.startswith("The numbers of the space 'title' have a mean square of 0.0")
    assert not any(
        "mean square" in doubt for doubt in json.loads(Path(config.out, "metrics.json").read_text())["doubts"]
    )


def test_vectors_of_texts_where_images_are_asked_for_are_doubted(
    config: FitConfig, given: Transports, caplog: pytest.LogCaptureFixture
) -> None:
    given["title"].version = "text:tfidf@222222222222+none@000000000000/6"
    fit(config, given)
    assert "addresses swapped" not in caplog.text
    fit(replace(config, out=f"{config.out}-2"), {"photo": given["title"], "title": given["photo"]})
    assert "The space 'photo' asks by ids of images, and what is served there, text:tfidf@222222222222" in caplog.text
    assert "The space 'title'" not in caplog.text


def test_both_spaces_of_a_batch_are_fetched_at_once_and_each_key_once(config: FitConfig, given: Transports) -> None:
    spaces, samples = spaces_of(given), Samples(config.samples)
    batch = next(samples.batches("train", 64))
    fetched = spaces.fetch({name: keys.unique for name, keys in batch.items.vectors.items()})
    for name, transport in given.items():
        (asked,) = transport.requests
        ids = np.frombuffer(asked.image_ids, dtype="<i8")
        assert len(np.unique(ids)) == len(ids)
        assert set(ids) == set(batch.items.vectors[name].unique)
        found = fetched[name]
        assert found is not None
        assert found.version == transport.version


def test_a_space_whose_server_has_another_version_stops_training_by_name(config: FitConfig, given: Transports) -> None:
    def change(done: int, total: int, what: str) -> None:
        given["title"].version = "mock@999999999999+none@000000000000/6"

    with pytest.raises(VersionMismatch, match=r"^In the space 'title': .*mock@999999999999"):
        fit(config, given, change)


def test_a_model_is_never_given_vectors_of_another_version(config: FitConfig, given: Transports, folder: Path) -> None:
    fit(config, given)
    given["title"].version = "mock@999999999999+none@000000000000/6"
    scorer = Scorer.load(config.out, server={name: ImageClient(found) for name, found in given.items()})
    now = Samples(config.samples).frame("test", ["timestamp"])["timestamp"][0].as_py()
    with pytest.raises(VersionMismatch, match="In the space 'title': "):
        scorer.score(*request(folder, now, ["1"]), now_s=now)
    with pytest.raises(BadInput, match=r"holds another run \(other vectors\)"):
        fit(config, given)


def test_a_killed_run_goes_on_only_with_the_same_vectors_in_each_space(config: FitConfig, given: Transports) -> None:
    # The regulariser is of lists, too, and what is drawn is the same after a kill.
    config = replace(config, epochs=3, patience=9, embedding_l2=0.1, id_dropout=0.3, negative_rate=0.5)
    whole = fit(config, given)

    class Killed(Exception):
        pass

    def kill(done: int, total: int, what: str) -> None:
        if what.startswith("epoch 2"):
            raise Killed

    again = replace(config, out=config.out + "-again")
    with pytest.raises(Killed):
        fit(again, given, kill)
    with pytest.raises(BadInput, match="holds an interrupted run with other settings, other samples or other vectors"):
        fit(again, {"photo": given["photo"]})
    assert fit(again, given)["test"] == whole["test"]
    with pytest.raises(VersionMismatch, match=r"was trained with vectors of photo=.*, title=.*, this one with photo="):
        fit(replace(config, out=config.out + "-2", warm_start=config.out), {"photo": given["photo"]})


def test_keys_without_a_vector_are_said_with_their_space(config: FitConfig, given: Transports) -> None:
    said: list[str] = []
    fit(config, given, announce=said.append)
    missing = [text for text in said if "vectors asked for, each once a call, are missing" in text]
    assert any("In the space 'photo' " in text for text in missing)
    given["title"].vectors = {n: v for n, v in given["title"].vectors.items() if n < 10}
    with pytest.raises(TooManyMissingImages, match=r"^In the space 'title': .* are missing \(NOT_FOUND"):
        fit(replace(config, out=config.out + "-2"), given)


def test_a_generation_that_changes_is_said_with_its_space(
    config: FitConfig, given: Transports, caplog: pytest.LogCaptureFixture
) -> None:
    def replace_photo(done: int, total: int, what: str) -> None:
        given["photo"].generation = 2

    result = fit(config, given, replace_photo)
    assert result["generations_at_start"] == {"photo": 1, "title": 1}
    assert result["generations"] == {"photo": 2, "title": 1}
    with caplog.at_level(logging.WARNING):
        assert "the store of the space 'photo' went from generation 1 to 2" in caplog.text


def test_a_comparison_of_two_spaces(config: FitConfig, given: Transports, tmp_path: Path) -> None:
    found = compare(CompareConfig(replace(config, out=str(tmp_path / "compare")), ("embedding_mlp",), 1), given)
    assert [row["spaces"] for row in found["rows"] if not row["baseline"]] == [[], ["photo", "title"]]
    assert vectors_text(found["runs"]) == f"with vectors of {found['runs'][1]['vector_version']}"
    assert found["runs"][1]["vector_version"].startswith("photo=mock@111111111111+concepts@0123456789ab/8, title=")


def test_what_is_given_now_stands_in_place_of_where_a_run_had_its_vectors() -> None:
    of_spaces = {"photo": "b:1", "title": "titles"}
    fitted = {"server": "a:1", "store": "", "vectors": of_spaces}
    assert Sources.of_run(fitted) == Sources("a:1", "", of_spaces)
    assert Sources.of_run(fitted, vectors={"title": "c:1"}) == Sources("a:1", "", {"photo": "b:1", "title": "c:1"})
    assert Sources.of_run(fitted, server="d:1") == Sources("d:1")
    assert Sources.of_run({"store": "here"}, catalogue="photos") == Sources(FitConfig.server, "here", {}, "photos")
    assert Sources.of_run({"server": "a:1"}, store="here") == Sources("", "here")
    assert Sources.of_run({}) == Sources(FitConfig.server)  # of an exported model, which remembers none


def test_each_space_and_both_are_rows_of_one_comparison(config: FitConfig, given: Transports, tmp_path: Path) -> None:
    """Each run asks for its own spaces only, and models have options of their own."""
    base, spaces = replace(config, out=str(tmp_path / "c")), ("photo", "title", "photo+title")
    small = CompareConfig(base, ("embedding_mlp",), 1, spaces=spaces, options={"embedding_mlp": {"hidden": (8,)}})
    found = compare(small, given)
    rows = [row for row in found["rows"] if not row["baseline"]]
    assert [row["spaces"] for row in rows] == [[], ["photo"], ["title"], ["photo", "title"]]
    assert all("hidden=8" in row["model"] for row in rows)
    assert all("low" in row["all"]["auc_over_mean"] for row in rows)
    assert all(row["all"]["auc_gain"] for row in rows[1:])
    for choice in ("The vectors of photo ", "The vectors of title ", "The vectors of photo and title "):
        assert choice in found["sentence"]
    assert sorted(path.name for path in (tmp_path / "c").glob("embedding*")) == [
        *("embedding_mlp-ids-0", "embedding_mlp-photo+title-0", "embedding_mlp-photo-0", "embedding_mlp-title-0")
    ]
    versions = {line["vector_version"].count("=") for line in found["runs"]}
    assert versions == {0, 1, 2}
    assert compare(small, given)["rows"] == found["rows"]
    with pytest.raises(BadInput, match=r"--spaces names 'titel'; .*: photo, title\. Did you mean 'title'"):
        compare(replace(small, spaces=("photo+titel",)), given)
    with pytest.raises(BadInput, match=r"--spaces names 'photo\+title' twice; name each once"):
        compare(replace(small, spaces=("title+photo", "photo", "photo+title")), given)
    with pytest.raises(BadInput, match="--models names 'embedding_mlp' twice"):
        compare(replace(small, models=("embedding_mlp", "embedding_mlp")), given)
    with pytest.raises(BadInput, match="labels names 'click' twice"):
        fit(replace(small.base, labels=("click", "click"), out=str(tmp_path / "twice")), given)
    with pytest.raises(BadInput, match="holds a comparison of other samples, vectors or settings"):
        compare(replace(small, options={}), given)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("hidden=8", "begins with no model that is compared, as lr.NAME=VALUE does; these are: lr, din"),
        ("dni.hidden=8", "Did you mean 'din'?"),
        ("din.hiden=8", "din has no option 'hiden'"),
        ("din.hidden", "is no name=value"),
    ],
)
def test_options_of_models_that_are_wrong_are_said(text: str, said: str) -> None:
    assert parse_options_of(("lr", "din"), ["din.hidden=8,4"]) == {"din": {"hidden": (8, 4)}}
    with pytest.raises(BadInput, match=re.escape(said)):
        parse_options_of(("lr", "din"), [text])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "several spaces of vectors: photo, title. Say where each is: --vectors photo=HOST:PORT --vectors title"),
        (["--vectors=photos=a:1"], "names the space 'photos'; there are: photo, title. Did you mean 'photo'?"),
        (["--vectors=photo"], "'photo' is no NAME=VALUE"),
        (["--vectors=photo=a:1", "--vectors=photo=b:1"], "'photo' is given twice"),
        (["--vectors=photo=a:1", "--store=here"], "--store is given beside --vectors"),
        (["--vectors=photo=nowhere"], "nowhere"),
        (["--vectors=photo=a:1@"], "--vectors 'a:1@' names no version behind the @"),
        (["--vectors=photo=localhost:1", "--timeout-s=0.2"], "In the space 'photo': "),
        (["--vectors=photo=a:1", "--vectors=title=b:1", "--head=learn"], "--head photo=learn or --head title=learn"),
        (["--vectors=photo=a:1", "--head=title=learn"], "head is 'title=learn'; the spaces are: photo"),
        (["--vectors=photo=a:1", "--head=melt"], "'melt' is none: it must be frozen, learn or SPACE=learn"),
    ],
)
def test_wrong_places_are_said(
    config: FitConfig, arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(trainer, ["fit", f"--samples={config.samples}", f"--out={config.out}", *arguments])
    assert done.exit_code in (1, 2, 3), done.output
    assert said in done.output


def test_evaluate_and_score_want_a_place_for_each_space(config: FitConfig, given: Transports, tmp_path: Path) -> None:
    fit(config, given)
    runner = CliRunner()
    for command in (["evaluate", config.out], ["score", config.out, f"--samples={config.samples}"]):
        done = runner.invoke(trainer, [*command, f"--out={tmp_path / 's.parquet'}"][: 2 if len(command) == 2 else None])
        assert "There are several spaces of vectors: photo, title" in done.output
        done = runner.invoke(trainer, [*command, "--vectors=photo=localhost:1"])
        assert "say where those of title are, too, by --vectors title=HOST:PORT" in done.output
    with pytest.raises(BadInput, match=r"Say where each is: server=\{'photo': \.\.\., 'title': \.\.\.\}"):
        Scorer.load(config.out, server="localhost:1")


def test_a_run_of_a_former_release_is_said(config: FitConfig, tmp_path: Path) -> None:
    fit(replace(config, images=False))
    old = tmp_path / "old"
    shutil.copytree(config.out, old)
    document = document_of(old)
    document["lineage"] = {"vector_version": "", "generation": 0, **document["lineage"]}
    (old / CONFIG).write_text(sealed_json(document))
    with pytest.raises(BadInput, match="of a former release, whose samples had another format: build the samples"):
        load_model(old)


def test_which_space_learns_and_where_vectors_are() -> None:
    config = FitConfig()
    assert learning_space(replace(config, head="learn"), ["photo"]) == "photo"
    assert learning_space(replace(config, head="title=learn"), ["photo", "title"]) == "title"
    assert learning_space(config, ["photo", "title"]) == ""
    with pytest.raises(BadInput, match="cannot learn with images off"):
        learning_space(replace(config, head="photo=learn", images=False), [])
    found = Sources("", vectors={"title": "a:1", "photo": "dns:///b:2"}).of(["photo", "title"])
    assert {name: place.source for name, place in found.items()} == {"photo": "dns:///b:2", "title": "a:1"}
    assert list(found) == ["photo", "title"]  # as the samples name them


def test_two_spaces_of_one_server_are_two_versions(config: FitConfig, store: Path, tmp_path: Path) -> None:
    """One address for two spaces by image would be the very same vectors: refused, unless a version is named."""
    (folder := tmp_path / "shop").mkdir()
    samples = make_shop(folder, '[vectors.other]\nkey = "image"\n')
    held = copy_store(store, tmp_path / "at@home")
    with ImageClient(open_local(held)) as client:
        active = client.info().version
    with closing(Store(held, create=False)) as opened:
        features = opened.index.space(Version.parse(active).backbone)
        assert features is not None
        found = fit_pca(opened.read(features, opened.index.load(features.name)[1]), 8)
        made, _ = apply_head(opened, found)
    config = replace(config, samples=str(samples), max_missing=1.0)
    both = {"photo": str(held), "other": str(held)}
    with pytest.raises(
        BadInput, match=f"'photo' and 'other' would have the same vectors: those of {re.escape(active)}"
    ):
        fit(replace(config, vectors=both))
    both["other"] = f"{held}@{made}"
    result = fit(replace(config, vectors=both))
    assert result["vector_version"] == f"photo={active}, other={made}"
    _, lineage, _ = load_model(config.out)
    assert lineage.inputs.spaces == {"photo": 16, "other": 8}
    again = evaluate(config.out, vectors={"photo": str(held), "other": str(held)})  # a run knows its versions
    assert again["all"]["auc"] == pytest.approx(result["test"]["all"]["auc"], abs=1e-6)
    with pytest.raises(BadInput, match=r"names the version .*/8 for the space 'photo', and the model was trained with"):
        evaluate(config.out, vectors=both | {"photo": f"{held}@{made}"})
    with pytest.raises(VersionMismatch, match=r"In the space 'other': .* not hold vectors of nothing; it holds: .*/16"):
        fit(replace(config, vectors=both | {"other": f"{held}@nothing"}, out=f"{config.out}-2"))
    with pytest.raises(BadInput, match="In the space 'other': A head that learns takes the features that are served"):
        fit(replace(config, vectors=both, head="other=learn", out=f"{config.out}-3"))


def test_a_space_with_a_name_that_modules_have_is_refused(given: Transports) -> None:
    with pytest.raises(BadInput, match=r"A space .* PyTorch cannot give .*'items' already exists.*another name"):
        spaces_of({"items": given["photo"]})


def test_places_stand_in_the_configuration_file(
    config: FitConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = '[trainer.fit]\nvectors = ["photo=localhost:1", "title=localhost:2"]\ntimeout-s = 0.2\n'
    Path("crossmedia.toml").write_text(lines)
    done = CliRunner().invoke(trainer, ["fit", f"--samples={config.samples}", "--json"])
    assert done.exit_code == 3, done.output
    assert "In the space 'photo': " in json.loads(done.stdout)["message"]


@pytest.mark.parametrize("local", [True, False])
def test_a_head_learns_in_one_space_while_the_other_is_frozen(
    config: FitConfig, given: Transports, store: Path, local: bool
) -> None:
    config = replace(config, head="photo=learn", head_widths=(16, 4), max_missing=1.0)
    if local:
        config = replace(config, vectors={"photo": str(store), "title": str(store)})
        result = fit(config)
    else:
        result = fit(config, {"photo": open_local(store), "title": given["title"]})
    _, lineage, _ = load_model(config.out)
    assert lineage.learned == "photo"
    assert lineage.versions["photo"].endswith("/4")
    assert lineage.versions["title"].endswith("/16" if local else "/6")
    assert result["train"]["head_parameters"] == 1280 * 16 + 16 + 1 + 16 * 4 + 4
    head = load_head(config.out)
    assert head is not None
    assert f"photo={head.version(head.backbone)}, " in result["vector_version"]
    if local:
        again = fit(config)  # finished before, and recognised by what the head started from
        assert again["test"] == result["test"]
        base = replace(config, out=str(Path(config.out).parent / "c"))
        found = compare(CompareConfig(base, ("embedding_mlp",), 1, spaces=("photo", "title")))
        learns = {tuple(row["spaces"]): "head=photo=learn" in row["model"] for row in found["rows"]}
        assert learns == {(): False, ("photo",): True, ("title",): False}


def test_the_report_shows_which_photos_of_an_item_matter(config: FitConfig, given: Transports) -> None:
    fit(replace(config, options={"pooling": "attention"}, epochs=3), given)
    model, _, _ = load_model(config.out)
    samples = Samples(config.samples)
    feed = Feed(samples, spaces_of(given), 64, CPU)
    strips, said = item_photos(feed, ImageClient(given["photo"]), "photo", model)
    assert len(strips) == 6
    items = rows(Path(config.samples).parent / "items.csv")
    for strip in strips:
        pictures = [strip.first, *strip.others]
        shares = [picture.share for picture in pictures]
        assert shares == sorted(shares, reverse=True)
        assert sum(shares) == pytest.approx(1, abs=1e-5)
        item = items[int(strip.first.name.removeprefix("item "))]
        assert {p.image_id for p in pictures} == {int(item[n]) for n in ("front", "back", "detail") if item[n]}
    assert "the photo that mattered most has" in said
    assert item_photos(feed, ImageClient(given["photo"]), "photo", load_model(config.out)[0])[1] == said


def test_attention_learns_which_photo_matters() -> None:
    """One of an item's three photos says whether it is clicked, and another number of it that it is the one."""
    rng = torch.Generator().manual_seed(0)
    items = 400
    vectors = torch.randn(3 * items, 8, generator=rng)
    matters = torch.randint(0, 3, (items,), generator=rng) + 3 * torch.arange(items)
    vectors[:, 0] = 0.0
    vectors[matters, 0] = 3.0
    labels = (vectors[matters, 1] > 0).float()
    bag = Bag(torch.arange(3 * items), torch.arange(3 * items) // 3)
    batch, _ = make_batch([0] * items)
    batch = replace(batch, target=torch.arange(items), items=replace(batch.items, vectors={"photo": bag}))
    batch = replace(batch, items=replace(batch.items, ids={"item_id": torch.zeros(items, dtype=torch.int64)}))
    found = {}
    for pooling in ("mean", "attention"):
        torch.manual_seed(0)
        layer, top = SpaceInput(8, 8, pooling, ids=1), torch.nn.Linear(8, 1)
        optimizer = torch.optim.Adam([*layer.parameters(), *top.parameters()], lr=0.02)
        given = ImageVectors(vectors, torch.ones(3 * items, dtype=torch.bool))
        for _ in range(150):
            logits = top(layer(given, batch, "photo", torch.zeros(items, 1))[0]).squeeze(1)
            loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        found[pooling] = float(((logits > 0) == (labels > 0)).float().mean())
        if pooling == "attention":
            _, weights = layer.target_weights(given, batch, "photo", torch.zeros(items, 1))
            assert float(weights.detach()[matters].mean()) > 0.9
    assert found["attention"] > 0.95 > found["mean"]
