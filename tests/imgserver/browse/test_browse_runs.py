"""The pages of runs, over folders of strangers: names, pipes; and a site whose image server is away."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from html import unescape
from pathlib import Path
from urllib.parse import quote

import pytest
from click.testing import CliRunner
from site_process import browsing, get

from crossmedia.features.schema import load_schema
from crossmedia.features.writing.build import build_samples
from crossmedia.trainer.browsing.runs import Runs
from crossmedia.trainer.cli import trainer

LATIN_NAME, ESCAPED = os.fsdecode(b"caf\xe9"), "caf\\udce9"  # the name of a folder, and what it is called
SCHEMA = """
[log]
path = "impressions.csv"
user = "user"
item = "item"
time = "time"
labels = { click = "click" }
[split]
method = "time"
test = 0.3
validation = 0.1
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that is a run itself, with others below it: of names that no address has as they are, and of pipes."""
    folder = tmp_path_factory.mktemp("shop")
    with open(folder / "impressions.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["user", "item", "time", "click"])
        writer.writerows([f"u{n % 7}", f"i{n * n % 11}", 1000 + n, int(n % 3 == 0)] for n in range(400))
    (folder / "samples.toml").write_text(SCHEMA)
    build_samples(load_schema(folder / "samples.toml"), folder / "samples")
    made = folder / "runs"
    command = ["fit", f"--samples={folder / 'samples'}", "--model=lr", "--no-images", "--epochs=1", f"--out={made}"]
    done = CliRunner().invoke(trainer, command)
    assert done.exit_code == 0, done.output
    for name in (LATIN_NAME, "back\\slash", "100 %?#\nline"):
        shutil.copytree(made, made / name, ignore=lambda _, names: [one for one in names if Path(one).suffix == ""])
    former = {name: json.loads((made / "config.json").read_text())[name] for name in ("fit", "lineage")}
    for name in ("compare.json", "metrics.json", "config.json"):
        shutil.copytree(made / LATIN_NAME, pipe := made / f"pipe-{name}")
        (pipe / "config.json").write_text(json.dumps(former))  # without digests, by which the files would be read first
        (pipe / name).unlink(missing_ok=True)
        os.mkfifo(pipe / name)
    (made / "pipe-compare.json" / "config.json").unlink()
    (made / "pipe-compare.json" / "metrics.json").unlink()
    return made


@pytest.fixture(scope="module")
def site(runs: Path) -> Iterator[str]:
    """A site whose image server is away; that it ends by SIGTERM within seconds is asserted afterwards."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with browsing(f"127.0.0.1:{port}", f"--runs={runs}") as address:
        yield address


def test_every_run_of_the_list_is_shown(site: str) -> None:
    """A browser would ask for "/runs/of/" where the name is "."; what is not UTF-8 cannot be in an address."""
    status, text, _ = get(f"{site}runs")
    assert status == 200
    links = re.findall(r'href="(/runs/of/[^"]+)">', text)
    assert len(links) == 7
    assert "/runs/of/runs/" in links
    assert "/runs/of/" + quote(ESCAPED) in links
    assert text.count("It is no file, but a pipe or a device") == 2
    assert "there is no metrics.json" in text
    for link in links:
        assert not {".", "..", ""} & set(link.removeprefix("/runs/of/").removesuffix("/").split("/"))
        status, text = shown(site[:-1] + unescape(link))
        assert status == (400 if "pipe" in link else 200), (link, text)
        assert "pipe" in link or "One run has no other beside it" in text


def shown(address: str) -> tuple[int, str]:
    """A page of a run, once it is drawn."""
    end = time.monotonic() + 60
    while True:
        status, text, _ = get(address)
        if "This is being drawn" not in text or time.monotonic() > end:
            return status, text
        time.sleep(0.2)


def test_impressions_name_every_run(site: str) -> None:
    status, text, _ = get(f"{site}impressions")
    assert status == 200
    assert "runs/" in text or "This is being drawn" in text


def test_no_two_folders_have_one_name(runs: Path) -> None:
    """A folder whose name is what another's is written as."""
    twin = runs / ESCAPED
    shutil.copytree(runs / LATIN_NAME, twin)
    try:
        folders = Runs(runs, "").folders()
        assert [folders[ESCAPED], folders["caf\\\\udce9"]] == [runs / LATIN_NAME, twin]
        assert len(set(folders.values())) == len(folders)
        assert all(name.isprintable() for name in folders)
    finally:
        shutil.rmtree(twin)


def test_a_server_that_is_away_is_given_up_soon(site: str) -> None:
    pages = ("", "neighbours?id=1", "duplicates", "map", "versions", "photo/1.jpg")
    for page in pages:
        started = time.monotonic()
        status, text, _ = get(site + page)
        assert (status, "No image server answers" in text) == (502, True)
        assert time.monotonic() - started < 4, page  # it was 15


def test_photos_of_a_server_that_is_away_do_not_keep_other_pages_waiting(site: str) -> None:
    started = time.monotonic()
    with ThreadPoolExecutor(24) as pool:
        found = list(pool.map(lambda n: get(f"{site}photo/{n}.jpg")[0], range(60)))
    assert set(found) <= {502, 503}
    assert time.monotonic() - started < 12  # each took 15


def test_a_site_with_runs_says_nothing_of_the_builds_of_libraries(
    runs: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with browsing("127.0.0.1:1", f"--runs={runs}") as address:
        get(f"{address}runs")
    said = capfd.readouterr().err
    assert "faiss" not in said.lower(), said
