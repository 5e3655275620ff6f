"""What decides: the section of the report, over real photos, a real store of concepts and two seeds."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
from html import escape
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, DaemonProcess, copy_store, run_command
from in_browser import in_browser

from crossmedia.features.reading.samples import Samples
from crossmedia.features.schema import load_schema
from crossmedia.features.writing.build import build_samples
from crossmedia.imgserver.client import ImageClient
from crossmedia.trainer.feed import Fed
from crossmedia.trainer.images.image_head import StoredVectors
from crossmedia.trainer.images.spaces import Spaces
from crossmedia.trainer.reasons.what_if import with_vectors
from crossmedia.trainer.report.explained_rows import showing
from crossmedia.trainer.runs.checkpoint import CARDS, load_cards, load_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # the first test trains four runs
ROWS = 2500
GROCERY = ROOT / "examples" / "grocery"
HOSTILE = "</style><script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"


@pytest.fixture(scope="module")
def server(graph_cache: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A daemon with concepts of the demo's photos, one of them a selling point of the shop."""
    folder = tmp_path_factory.mktemp("concepts")
    store = copy_store(graph_cache, folder / "store")
    table = GROCERY / "photos.csv"
    with open(table, newline="") as file:
        apples = [row["item_id"] for row in csv.DictReader(file) if row["coarse"] == "Apple"][:12]
    points = folder / "points.csv"
    points.write_text("item_id,point\n" + "".join(f"{item},crisp look\n" for item in apples))
    run_command(
        *("imgserver", "concepts", "build", f"--store={store}", f"--items={table}", "--key=item_id"),
        *("--columns=coarse", f"--points={points}", f"--out={folder / 'head'}"),
    )
    made = run_command(
        "imgserver", "precompute", f"--store={store}", f"--head={folder}/head/head.safetensors", "--json"
    )
    run_command("imgserver", "versions", f"--store={store}", f"--activate={json.loads(made.stdout)['version']}")
    process = DaemonProcess(store, photos)
    yield process
    process.stop()


@pytest.fixture(scope="module")
def made(server: DaemonProcess, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Samples of the simulated shop's first days, and a comparison of the white box over two seeds."""
    folder = tmp_path_factory.mktemp("shop")
    subprocess.run([sys.executable, GROCERY / "simulate.py", f"--out={folder}", "--seed=1"], check=True)
    log = (folder / "impressions.csv").read_text().splitlines(keepends=True)
    (folder / "impressions.csv").write_text("".join(log[: ROWS + 1]))
    shutil.copy(GROCERY / "samples.toml", folder)
    build_samples(load_schema(folder / "samples.toml"), folder / "samples")
    run_command(
        *("trainer", "compare", f"--samples={folder / 'samples'}", f"--server={server.address}", "--models=concepts"),
        *("--seeds=2", "--epochs=1", f"--out={folder / 'compare'}"),
        timeout_s=600,
    )
    return folder


def test_the_section_says_what_decides_in_words_and_numbers(made: Path, server: DaemonProcess) -> None:
    out = made / "report.html"
    done = run_command(
        "trainer", "report", str(made / "compare"), f"--server={server.address}", f"--out={out}", "--json"
    )
    facts = json.loads(done.stdout)["decides"]
    html = out.read_text()
    assert html.index("What decides") < html.index("Metrics of the test part")
    for sentence in facts["sentences"]:
        assert escape(sentence, quote=False).replace("&#39;", "'") in html.replace("&#39;", "'")
    assert "over 2 seeds" in facts["interval"]
    assert "association and not cause" in html
    assert html.count("data:image/jpeg;base64,") > 40
    card = json.loads((made / "compare" / "concepts-images-0" / CARDS).read_text())["image"]
    names = [one["name"] for one in card["concepts"]]
    assert sorted(one["name"] for one in facts["effects"]) == sorted(names)
    assert {"coarse=Apple"} <= set(names)
    for one in facts["effects"]:
        change = one["change"]
        assert change["low"] < change["logit"] < change["high"]
        assert change["times_low"] < change["times"] < change["times_high"]
        assert change["logit"] == pytest.approx(one["to_all"] + one["to_whom"] + one["matches"], abs=1e-5)
        assert one["low_tenth"] <= one["high_tenth"]
    sizes = [one["size"] for one in facts["effects"]]
    assert sizes == sorted(sizes, reverse=True)
    assert sum(facts["shares"].values()) == pytest.approx(1)
    assert 0 < facts["unnamed"] < 1
    assert html.count("<script") == 1  # the one that sorts tables
    assert "Why these items: single impressions" in html
    assert len(re.findall(r'<ul class="reasons"><li><b class="(?:positive|negative)">[+-]\d', html)) == 6
    assert "was trained with images" not in html
    for word in ("one standard deviation (s.d.)", "score", "on photos left out"):
        assert f"<dt>{word}</dt>" in html


def test_one_seed_says_so_and_no_concepts_no_section(made: Path, server: DaemonProcess, tmp_path: Path) -> None:
    told = {}
    for run in ("concepts-images-0", "concepts-ids-0"):
        command = ["trainer", "report", str(made / "compare" / run), f"--server={server.address}"]
        done = run_command(*command, f"--out={tmp_path / run}.html", "--json")
        told[run] = json.loads(done.stdout)["decides"]
    assert "one seed" in told["concepts-images-0"]["interval"]
    assert told["concepts-ids-0"] is None
    assert "What decides" not in (tmp_path / "concepts-ids-0.html").read_text()


def test_without_its_server_the_section_says_why(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSMEDIA_TRAINER_REPORT_SERVER", "localhost:1")
    command = [
        sys.executable,
        "-m",
        "crossmedia.trainer",
        "report",
        str(made / "compare"),
        f"--out={tmp_path / 'r.html'}",
    ]
    subprocess.run(command, check=True, timeout=120, capture_output=True)
    assert "Not computed: No image server answers at localhost:1." in (tmp_path / "r.html").read_text()


def item_page(made: Path, server: DaemonProcess, run: Path, item: str, out: Path) -> dict[str, Any]:
    command = ["trainer", "report", str(run), f"--server={server.address}", f"--item={item}", f"--out={out}", "--json"]
    found: dict[str, Any] = json.loads(run_command(*command).stdout)
    return found


def items_of(made: Path) -> dict[str, dict[str, str]]:
    """What the table says of the items that the samples have; others are nowhere in this log."""
    there = set(Samples(made / "samples").items.read(["raw_item_id"])["raw_item_id"].to_pylist())
    with open(made / "items.csv", newline="") as file:
        return {row["item_id"]: row for row in csv.DictReader(file) if row["item_id"] in there}


def photos_of(row: dict[str, str]) -> list[int]:
    return [int(row[name]) for name in ("image_id", "second_image_id") if row[name]]


def with_a_photo(made: Path) -> str:
    return next(item for item, row in items_of(made).items() if len(photos_of(row)) == 1)


def test_a_page_of_an_item_is_what_the_models_say(made: Path, server: DaemonProcess, tmp_path: Path) -> None:
    """Its numbers against both models, asked anew for the item in every test row."""
    items, item = items_of(made), with_a_photo(made)
    facts = item_page(made, server, made / "compare", item, tmp_path / "item.html")
    html = (tmp_path / "item.html").read_text()
    for sentence in (*facts["sentences"], "This is association and not cause."):
        assert escape(sentence, quote=False) in html.replace("&#39;", "'")
    assert html.count("data:image/jpeg;base64,") > 5
    assert "over 2 seeds" in facts["interval"]
    assert facts["category"] == ["cate_id", items[item]["cate_id"]]
    point = next(one for one in facts["concepts"] if one["name"] == "crisp look")
    assert 0 < point["chance"] < 1
    assert "Selling points" in html
    samples = Samples(made / "samples")
    row = samples.items.read(["raw_item_id"])["raw_item_id"].to_pylist().index(item)
    with ImageClient(server.address) as client:
        spaces = Spaces({"image": StoredVectors(client)})
        models = [load_model(made / "compare" / f"concepts-images-{seed}")[0].eval() for seed in (0, 1)]
        batches = [showing(batch, samples.items, row) for batch in samples.batches("test", 512)]
        own = client.get(photos_of(items[item])).values.mean(axis=0)
        fed = [Fed.of(batch, torch.device("cpu")) for batch in batches]
        vectors = [one.vectors(spaces) for one in fed]

    def predicted(changed: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Logits of each model with another vector of the item's photo, shape (2, rows)."""
        logits = []
        with torch.inference_mode():
            for model, (one, of) in product(models, zip(fed, vectors, strict=True)):
                given = torch.from_numpy(changed).expand(len(one.tensors.lengths), -1)
                logits.append(model(*with_vectors(one.tensors, of, "image", given))[:, 0].numpy())
        return np.concatenate(logits).astype(np.float64).reshape(len(models), -1)

    names = load_cards(made / "compare" / "concepts-images-0")["image"].names
    plain, none = predicted(own.astype(np.float32)), predicted(np.zeros_like(own, dtype=np.float32))
    clicks = 1 / (1 + np.exp(-plain))
    assert facts["look"]["logit"] == pytest.approx((plain - none).mean(), abs=1e-5)
    assert facts["look"]["times"] == pytest.approx(clicks.sum() / (1 / (1 + np.exp(-none))).sum(), abs=1e-5)
    said = html.partition("<h2>What if</h2>")[0]
    for one in facts["concepts"]:
        assert (
            one["named"] or f'<b class="name">{one["said"]}</b>' not in said
        )  # what has no name helps and hurts nowhere
        place = names.index(one["name"])
        assert one["amount"] == pytest.approx(own[place], abs=1e-4)
        changed, without = own.astype(np.float32), own.astype(np.float32)
        changed[place] += one["step"]
        without[place] = 0
        more = predicted(changed)
        assert one["what_if"]["logit"] == pytest.approx((more - plain).mean(), abs=1e-5)
        assert one["what_if"]["times"] == pytest.approx((1 / (1 + np.exp(-more))).sum() / clicks.sum(), abs=1e-5)
        assert one["adds"]["logit"] == pytest.approx((plain - predicted(without)).mean(), abs=1e-5)


def test_ranks_and_real_photos_are_those_of_the_category(made: Path, server: DaemonProcess, tmp_path: Path) -> None:
    """As they are counted one by one, from what the server says of every item's photo."""
    table = items_of(made)
    item = table[with_a_photo(made)]
    facts = item_page(made, server, made / "compare" / "concepts-images-0", item["item_id"], tmp_path / "item.html")
    with ImageClient(server.address) as client:
        names, amounts = client.concepts().names, dict[str, Any]()
        for row in table.values():
            found = client.get(photos_of(row) or [-1])
            if found.ok.any():
                amounts[row["item_id"]] = found.values[found.ok].astype(np.float32).mean(axis=0)
    alike = [
        row["item_id"] for row in table.values() if row["cate_id"] == item["cate_id"] and row["item_id"] in amounts
    ]
    assert facts["peers"] == len(alike) > 5
    own = amounts[item["item_id"]]
    for one in facts["concepts"]:
        place = names.index(one["name"])
        more = sum(amounts[other][place] > own[place] + 1e-6 for other in alike)
        assert (one["rank"], one["peers"]) == (1 + more, len(alike))
        assert one["below"] == pytest.approx((len(alike) - 1 - more) / (len(alike) - 1))
    shown = 0
    for what_if in facts["what_ifs"]:
        place, step = names.index(what_if["concept"]["name"]), what_if["concept"]["step"]
        able = {
            key: np.linalg.norm(np.delete(vector - own, place))
            for key, vector in amounts.items()
            if 0.5 <= step * (vector[place] - own[place]) <= 2 and key != item["item_id"]
        }
        nearest = sorted(able.values())[: len(what_if["like"])]
        assert [one["distance"] for one in what_if["like"]] == pytest.approx(nearest, abs=1e-3)
        assert len(what_if["like"]) == min(4, len(able))
        for one in what_if["like"]:
            assert one["more"] == pytest.approx(amounts[one["item"]][place] - own[place], abs=1e-3)
            shown += 1
    assert shown > 8


def test_what_cannot_be_said_of_an_item_is_refused_in_words(made: Path, server: DaemonProcess, tmp_path: Path) -> None:
    command = ["trainer", "report", str(made / "compare"), f"--server={server.address}", f"--out={tmp_path / 'r.html'}"]
    known = with_a_photo(made)
    for options, said in (
        (["--item=10O0"], "have no item '10O0'. Near ones: 1"),
        (["--item=xyz"], "have no item 'xyz'. Give the id of an item, as the log has it."),
        ([f"--item={known}", "--category=cat"], "Items have no column 'cat' of ids; there are: shop_id, cate_id"),
        (["--category=cate_id"], "give --item, too"),
    ):
        done = run_command(*command, *options, check=False)
        assert done.returncode == 2
        assert said in done.stderr
    command[2] = str(made / "compare" / "concepts-ids-0")
    done = run_command(*command, f"--item={known}", check=False)
    assert done.returncode == 2
    assert "no model in" in done.stderr
    assert "--model concepts" in done.stderr
    assert not (tmp_path / "r.html").exists()


def test_an_item_without_a_photo_has_a_page_that_says_so(made: Path, server: DaemonProcess, tmp_path: Path) -> None:
    item = next(item for item, row in items_of(made).items() if not photos_of(row))
    facts = item_page(made, server, made / "compare", item, tmp_path / "item.html")
    assert facts["look"] is None
    assert facts["concepts"] == facts["what_ifs"] == []
    assert "whether there is a photo" in facts["others"]
    assert "The item has no photo that the model could look at" in (tmp_path / "item.html").read_text()


def run_named(made: Path, folder: Path, place: int, name: str) -> Path:
    """A copy of a run, one concept of which has another name."""
    run = Path(shutil.copytree(made / "compare" / "concepts-images-0", folder / "run"))
    cards = json.loads((run / CARDS).read_text())
    cards["image"]["concepts"][place]["name"] = name
    (run / CARDS).write_text(json.dumps(cards))
    return run


def is_sound(found: dict[str, Any]) -> None:
    assert not found["taken"]
    assert found["scripts"] == 1  # the one that sorts tables
    assert found["unsaid"] == 0
    assert found["drawn"] == found["images"] > 10
    assert not found["tooWide"]
    assert found["smallest"] >= 10
    assert found["dots"] >= 5
    assert found["requests"] == 0


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 420])
def test_a_hostile_name_is_shown_and_runs_nothing(
    made: Path, server: DaemonProcess, tmp_path: Path, width: int
) -> None:
    run = run_named(made, tmp_path, 0, HOSTILE[:80])
    item = with_a_photo(made)
    for name, options in (("page", []), ("item", [f"--item={item}", f"--title={HOSTILE}", f"--note={HOSTILE}"])):
        out = tmp_path / f"{name}.html"
        run_command("trainer", "report", str(run), f"--server={server.address}", f"--out={out}", *options)
        assert escape(HOSTILE[:80]) in out.read_text().replace("&#34;", "&quot;").replace("&#39;", "&#x27;")
        is_sound(in_browser(out.read_text(), tmp_path, width))
