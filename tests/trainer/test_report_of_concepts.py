"""What decides: the section of the report, over real photos, a real store of concepts and two seeds."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
from html import escape
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, DaemonProcess, copy_store, run_command

from crossmedia.features.schema import load_schema
from crossmedia.features.writing.build import build_samples
from crossmedia.trainer.runs.checkpoint import CARDS

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
    """Samples of the simulated shop, and a comparison of the white box over two seeds."""
    folder = tmp_path_factory.mktemp("shop")
    subprocess.run([sys.executable, GROCERY / "simulate.py", f"--out={folder}", "--seed=1"], check=True)
    shutil.copy(GROCERY / "samples.toml", folder)
    build_samples(load_schema(folder / "samples.toml"), folder / "samples")
    run_command(
        *(
            "trainer",
            "compare",
            f"--samples={folder / 'samples'}",
            f"--server={server.address}",
            "--models=concepts,din",
        ),
        *("--seeds=2", "--epochs=2", f"--out={folder / 'compare'}"),
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
    assert not (made / "report.html").read_text().count("<script")


def test_one_seed_says_so_and_no_concepts_no_section(made: Path, server: DaemonProcess, tmp_path: Path) -> None:
    told = {}
    for run in ("concepts-images-0", "din-images-0"):
        command = ["trainer", "report", str(made / "compare" / run), f"--server={server.address}"]
        done = run_command(*command, f"--out={tmp_path / run}.html", "--json")
        told[run] = json.loads(done.stdout)["decides"]
    assert "one seed" in told["concepts-images-0"]["interval"]
    assert told["din-images-0"] is None
    assert "What decides" not in (tmp_path / "din-images-0.html").read_text()


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


def run_named(made: Path, folder: Path, place: int, name: str) -> Path:
    """A copy of a run, one concept of which has another name."""
    run = Path(shutil.copytree(made / "compare" / "concepts-images-0", folder / "run"))
    cards = json.loads((run / CARDS).read_text())
    cards["image"]["concepts"][place]["name"] = name
    (run / CARDS).write_text(json.dumps(cards))
    return run


MEASURE = """<script>addEventListener("load", () => {
  const frame = document.querySelector("iframe"), page = frame ? frame.contentDocument : document;
  const wide = frame ? 420 : innerWidth;
  const small = [...page.querySelectorAll("p, td, th, dd, dt, li, b, span, figcaption")].filter(one => one.offsetParent)
    .map(one => parseFloat(page.defaultView.getComputedStyle(one).fontSize));
  document.title = JSON.stringify({taken: page.title === "taken" || document.title === "taken",
  scripts: page.querySelectorAll("script").length - (page === document ? 1 : 0),
  drawn: [...page.images].filter(one => one.naturalWidth > 0).length, images: page.images.length,
  tooWide: page.documentElement.scrollWidth > wide, smallest: Math.min(...small),
  dots: [...page.querySelectorAll(".scale .dot")].filter(one => one.getBoundingClientRect().width > 5).length,
  requests: page.defaultView.performance.getEntriesByType("resource").filter(r => !r.name.startsWith("data:")).length
  }); })</script></body>"""


def looked_at(page: Path, folder: Path, width: int) -> dict[str, Any]:
    """What a browser makes of a page, on a screen or in a frame as wide as a phone."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium is installed")
    probe, shown = folder / f"probe-{width}.html", page.read_text()
    if width < 500:  # a window is not made that narrow
        frame = f'<iframe style="border: 0" width="{width}" height="900" srcdoc="{escape(shown)}"></iframe>'
        shown = f"<!doctype html><body>{frame}</body>"
    probe.write_text(shown.replace("</body>", MEASURE))
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
    done = subprocess.run(
        [
            browser,
            *options,
            f"--user-data-dir={folder / 'profile'}",
            "--window-size=1280,900",
            "--dump-dom",
            f"file://{probe}",
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    match = re.search(r"<title>(\{.*?\})</title>", done.stdout)
    assert match is not None, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(match[1])
    return found


def is_sound(found: dict[str, Any]) -> None:
    assert not found["taken"]
    assert found["scripts"] == 0
    assert found["drawn"] == found["images"] > 10
    assert not found["tooWide"]
    assert found["smallest"] >= 10
    assert found["dots"] >= 5
    assert found["requests"] == 0


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 420])
def test_a_hostile_name_is_shown_and_runs_nothing(
    made: Path, server: DaemonProcess, tmp_path: Path, width: int
) -> None:
    run = run_named(made, tmp_path, 0, HOSTILE[:80])
    out = tmp_path / "page.html"
    run_command("trainer", "report", str(run), f"--server={server.address}", f"--out={out}")
    assert escape(HOSTILE[:80]) in out.read_text().replace("&#34;", "&quot;").replace("&#39;", "&#x27;")
    is_sound(looked_at(out, tmp_path, width))
