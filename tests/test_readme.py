"""Every command and every piece of Python in README and guide is run, in order; so are demo and tutorial."""

from __future__ import annotations

import csv
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import PHOTOS, ROOT, free_addresses

from crossmedia.service.running import running_daemon

# First line of each block that is not run here, and why.
NOT_RUN = {
    "photos ──> imgserver: frozen CNN ──> feature ──> head ──> vector, cached by image id and version": "a drawing",
    "git clone <this repository> crossmedia && cd crossmedia": "make demo is test_the_demo",
    "python3 -m venv .venv && .venv/bin/pip install torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu": (
        "installs by gigabytes"
    ),
    'pip install "crossmedia[all]"    # or [server], [trainer]; without them client and samples: 78 MB, no torch': (
        "installs"
    ),
    "make test": "this is it",
    "crossmedia trainer fit --samples samples --vectors photo=localhost:7070 --vectors title=localhost:7071 --out "
    "runs/both": "of samples with two spaces, which test_spaces trains",
}
LAST = "crossmedia imgserver stop --store store\n"  # ends the block that is run last: others ask the server too
PYTHON_NEEDS = {
    "from crossmedia.imgserver.client import HeadServers": "import torch\nimage_ids = torch.tensor([1, 2, -1])\n"
}
ROWS = 6_000
README, GUIDE = ROOT / "README.md", ROOT / "docs" / "guide.md"
# What the commands of a document leave behind.
MADE = {
    README: ("report.html", "din.pt2"),
    GUIDE: (
        "report.html",
        "scores.parquet",
        "din.pt2",
        "similar.png",
        "duplicates.csv",
        "semantic_ids.parquet",
        "projector",
    ),
}


@dataclass(frozen=True)
class Block:
    """A block of a document: ``shell``, ``python`` or ``toml``, and its text."""

    kind: str
    text: str

    @property
    def first(self) -> str:
        return self.text.splitlines()[0]


def blocks_of(document: Path) -> list[Block]:
    """Blocks between fences, and blocks that are indented behind an empty line."""
    found: list[Block] = []
    pattern = r"^```([a-z]*)\n(.*?)^```|(?<=\n\n)((?: {4}[^\n]*\n|\n(?= {4}))+)"
    for match in re.finditer(pattern, document.read_text(), flags=re.MULTILINE | re.DOTALL):
        if match[3]:
            text = re.sub(r"^ {4}", "", match[3], flags=re.MULTILINE)
            found.append(Block("python" if re.match(r"(from|import) ", text) else "shell", text))
        else:
            found.append(Block(match[1] or "shell", match[2]))
    return found


def free_port() -> int:
    (address,) = free_addresses(1)
    return int(address.rpartition(":")[2])


def environment(port: int) -> dict[str, str]:
    """The commands as they stand, with another port and fewer epochs."""
    commands = Path(sys.executable).parent
    asking = ("FIT", "COMPARE", "EVALUATE", "SCORE", "REPORT", "SERVE")
    servers = {f"CROSSMEDIA_TRAINER_{name}_SERVER": f"localhost:{port}" for name in asking}
    return {
        **os.environ,
        **servers,
        "CROSSMEDIA_IMGSERVER_SERVE_PORT": str(port),
        "CROSSMEDIA_TRAINER_FIT_EPOCHS": "1",
        "CROSSMEDIA_TRAINER_COMPARE_EPOCHS": "1",
        "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}",
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What the README's reader has: photos by id, logs, a new photo."""
    (tmp_path / "photos").symlink_to(PHOTOS)
    shutil.copy(PHOTOS / "200.jpg", tmp_path / "4711.jpg")
    grocery = ROOT / "examples" / "grocery"
    simulate = [sys.executable, str(grocery / "simulate.py"), f"--out={tmp_path / 'full'}"]
    subprocess.run(simulate, check=True, capture_output=True)
    (tmp_path / "logs").mkdir()
    for file in ("items.csv", "users.csv", "behaviours.csv"):
        shutil.copy(tmp_path / "full" / file, tmp_path / "logs")
    with open(tmp_path / "full" / "impressions.csv", newline="") as source:
        rows = list(csv.reader(source))[: ROWS + 1]
    with open(tmp_path / "logs" / "impressions.csv", "w", newline="") as out:
        csv.writer(out).writerows(rows)
    shutil.copy(grocery / "samples.toml", tmp_path / "logs")
    return tmp_path


def run(command: list[str], folder: Path, env: dict[str, str]) -> str:
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def check_settings(block: Block, folder: Path, env: dict[str, str], number: int) -> None:
    """A configuration file is used by the command that it is for."""
    file = folder / f"settings-{number}.toml"
    file.write_text(block.text.replace("/data/store", str(folder / "store")).replace("/data/photos", str(PHOTOS)))
    crossmedia = ["crossmedia", "--config", str(file)]
    if "[trainer.fit]" in block.text:
        run([*crossmedia, "trainer", "fit", "--warm-start=", "--out=runs/yesterday"], folder, env)
        run([*crossmedia, "trainer", "fit", "--out=runs/today"], folder, env)
        assert "rocket" in (folder / "runs" / "today" / "config.json").read_text()
    else:
        assert "active" in run([*crossmedia, "imgserver", "versions"], folder, env)


@pytest.mark.parametrize("document", MADE, ids=lambda path: path.stem)
def test_blocks_are_found(document: Path) -> None:
    lines = [line for block in blocks_of(document) if block.kind == "shell" for line in block.text.splitlines()]
    every = re.findall(r"^ {4}(crossmedia .+)$", document.read_text(), flags=re.MULTILINE)
    assert len(every) > 8
    assert [line for line in lines if line.startswith("crossmedia ")] == every


def test_what_is_not_run_is_there() -> None:
    assert not set(NOT_RUN) - {block.first for document in MADE for block in blocks_of(document)}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("document", MADE, ids=lambda path: path.stem)
def test_the_document_runs(document: Path, folder: Path) -> None:
    port = free_port()
    env, said = environment(port) | {"CROSSMEDIA_TRAINER_SERVE_PORT": str(free_port())}, []
    names = {"WIDE_VERSION": "", "VERSION": ""}  # what the guide calls a version -> the one that a command printed
    try:
        blocks = sorted(blocks_of(document), key=lambda block: block.text.endswith(LAST))
        for number, block in enumerate(block for block in blocks if block.first not in NOT_RUN):
            text = block.text.replace("localhost:7070", f"localhost:{port}")
            if block.kind == "toml":
                check_settings(block, folder, env, number)
            elif block.kind == "python":
                needs = next((code for start, code in PYTHON_NEEDS.items() if block.text.startswith(start)), "")
                said.append(run([sys.executable, "-c", needs + text], folder, env))
            elif block.kind == "shell":
                for line in text.splitlines():
                    for name, version in names.items():
                        line = line.replace(name, version)
                    said.append(run(["bash", "-c", line], folder, env))
                    for name, head in (("WIDE_VERSION", "pca"), ("VERSION", "learned")):
                        printed = re.findall(rf"\S+\+{head}@[0-9a-f]{{12}}/\d+", said[-1])
                        names[name] = printed[0] if printed else names[name]
        assert blocks[-1].text.endswith(LAST)
    except BaseException:
        subprocess.run(["bash", "-c", f"crossmedia trainer stop; {LAST}"], cwd=folder, env=env, capture_output=True)
        raise
    for made in MADE[document]:
        assert (folder / made).stat().st_size > 100, made


def test_the_readme_is_short() -> None:
    lines = README.read_text().splitlines()
    assert len(lines) <= 120
    assert not [line for line in lines if len(line) > 120]


def test_the_readme_shows_what_the_demo_prints() -> None:
    """The table of results.md is the demo's own; the README has the same lines."""
    shown = re.search(r"```text\n(.*?)```", README.read_text(), flags=re.DOTALL)
    assert shown is not None
    for auc in set(re.findall(r"0\.(\d{4})", shown[1])) - {"5000"}:
        assert f".{auc}" in (ROOT / "docs" / "results.md").read_text(), auc


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_demo(tmp_path: Path) -> None:
    demo = [sys.executable, str(ROOT / "examples" / "grocery" / "demo.py")]
    done = subprocess.run(demo, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "images computed on demand: 24, CNN passes for them: 24" in done.stdout
    assert (tmp_path / "demo" / "report.html").stat().st_size > 100_000


def demo_until(line: str, folder: Path) -> tuple[int, str]:
    """A demo that gets Ctrl-C, as a terminal sends it, once a line has been said: exit code and what was said."""
    demo = [sys.executable, str(ROOT / "examples" / "grocery" / "demo.py")]
    with subprocess.Popen(
        demo, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        said = ""
        for text in process.stdout:
            said += text
            if line in text:
                os.killpg(process.pid, signal.SIGINT)
        return process.wait(timeout=60), said


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_demo_that_is_interrupted_goes_on(tmp_path: Path) -> None:
    code, said = demo_until("run 2 of 12", tmp_path)
    assert code == 130, said
    assert "The demo was interrupted. What is done is kept in demo/: the same command goes on with the rest." in said
    assert "Traceback" not in said
    assert "run 1 of 12, embedding_mlp-ids-0: training" in said
    code, said = demo_until("run 2 of 12", tmp_path)
    assert code == 130, said
    assert said.startswith("A demo was interrupted here, and goes on.")
    assert said.count("(done before)") == 3, "photos are embedded, clicks simulated and samples built"
    assert "run 1 of 12, embedding_mlp-ids-0: done before" in said
    deadline = time.monotonic() + 30
    while running_daemon(tmp_path / "demo" / "store") and time.monotonic() < deadline:
        time.sleep(0.1)
    assert running_daemon(tmp_path / "demo" / "store") is None, "the server has ended, too"


@pytest.mark.slow
def test_the_tutorial(tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    port = free_port()
    script = (ROOT / "examples/own_catalogue/tutorial.sh").read_text().replace("localhost:7070", f"localhost:{port}")
    said = run(["bash", "-c", script], tmp_path, environment(port))
    assert "243 images in shop/photos.parquet: 243 new" in said
    assert "found 243, embedded 243, skipped 0, rejected 0" in said
    assert len(re.findall(r"^0\.\d{3}  [a-z-]+-\d{3}$", said, flags=re.MULTILINE)) == 5
    assert (tmp_path / "shop" / "scores.parquet").exists()
