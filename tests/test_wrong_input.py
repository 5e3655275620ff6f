"""Every command with each kind of wrong input: it ends with a sentence and an exit code, and never with a trace."""

from __future__ import annotations

import errno
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pyarrow as pa
import pytest
from click.testing import CliRunner, Result
from conftest import DaemonProcess, copy_store, run_command
from made_samples import make_samples
from PIL import UnidentifiedImageError

from crossmedia.cli import GROUPS, crossmedia
from crossmedia.door import place_meant, told
from crossmedia.errors import BadInput, ServerUnavailable, StoreError, did_you_mean

NUMBERS = ["x", "-1", "nan", "", str(2**70)]
WORDS = ["", "\udcff"]
CHOICES = ["nope", ""]
SERVERS = ["", "::1", "localhost", "http://localhost:1", "localhost:1,", "a,b", "localhost:99999", "unix:nowhere"]
# What a command needs beside what is wrong; the fields are made by ``made``.
RIGHT = {
    "imgserver serve": "--store {store} --host 203.0.113.9 --port 0",
    "imgserver info": "--server {server} --timeout-s 0.5",
    "imgserver health": "--server {server} --timeout-s 0.5",
    "imgserver stop": "--store nowhere",
    "imgserver precompute": "--store new --catalogue photos --dim 2 --ids ids.txt",
    "imgserver add": "photos/1.jpg --server {server} --timeout-s 0.5",
    "imgserver manifest": "photos --out m.parquet",
    "imgserver versions": "--store {store}",
    "imgserver compress": "--store {store} --bytes 3",
    "imgserver import": "garbage.parquet --name v --store {store}",
    "imgserver export": "--store {store} --out vectors.parquet",
    "imgserver backbones": "nope",
    "imgserver index": "--store nowhere",
    "imgserver search": "5 --server {server} --timeout-s 0.5",
    "imgserver duplicates": "--store {store}",
    "imgserver projector": "--store {store} --out projected",
    "imgserver semantic-ids": "--store {store} --codes 3",
    "imgserver doctor": "--store nowhere",
    "imgserver mend": "--store nowhere",
    "imgserver backup": "--store nowhere --to copy",
    "imgserver restore": "full --store restored",
    "imgserver compact": "--store nowhere",
    "imgserver plan": "--images 1e8 --rows 1e9",
    "imgserver merge": "folder --store merged",
    "imgserver reshard": "--store nowhere --servers a:1,b:1 --me a:1",
    "imgserver concepts build": "--store {store} --items ids.txt --columns x",
    "imgserver concepts show": "--store {store}",
    "imgserver concepts rename": "old new --store {store}",
    "imgserver publish": "--store nowhere --to redis://localhost:1",
    "browse": "--server {server} --host 203.0.113.9 --port 0",
    "features build": "broken.toml --out samples-2",
    "features inspect": "{samples}",
    "trainer models": "",
    "trainer fit": "--samples folder --server {server} --timeout-s 0.5",
    "trainer align": "--samples folder --server {server} --timeout-s 0.5",
    "trainer compare": "--samples folder --server {server} --timeout-s 0.5",
    "trainer explain": "{run} --server {server} --timeout-s 0.5 --out reasons.parquet",
    "trainer evaluate": "{run} --server {server} --timeout-s 0.5",
    "trainer score": "{run} --samples {samples} --server {server} --timeout-s 0.5",
    "trainer export": "full",
    "trainer serve": "{run} --folder serving --server {server} --host 203.0.113.9 --port 0",
    "trainer health": "--server {server} --timeout-s 0.5",
    "trainer switch": "other.pt2 --server localhost:1",
    "trainer stop": "--folder nowhere",
    "trainer results": "garbage.json",
    "trainer report": "{run} --server {server}",
}


def commands_of(command: click.Command, words: str) -> Iterator[str]:
    """The commands of a group, and of the groups in it; or the command itself."""
    if not isinstance(command, click.Group):
        yield words
        return
    for name, member in command.commands.items():
        yield from commands_of(member, f"{words} {name}")


COMMANDS = [
    name
    for group in GROUPS
    for name in commands_of(crossmedia.get_command(click.Context(crossmedia), group), group)  # type: ignore[arg-type]
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, daemon: DaemonProcess, graph_cache: Path) -> dict[str, str]:
    """A store, samples and a run that are right."""
    folder = tmp_path_factory.mktemp("right")
    store = copy_store(graph_cache, folder / "store")
    samples = make_samples(folder, 60, 600, {item: item for item in range(60)})
    run = folder / "run"
    run_command(
        *("trainer", "fit", f"--samples={samples}", f"--server={daemon.address}", "--model=lr", "--epochs=1"),
        f"--out={run}",
    )
    return {"store": str(store), "samples": str(samples), "run": str(run), "server": daemon.address}


@pytest.fixture
def wrong(tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Files and folders that are not what any command takes, in the working folder."""
    monkeypatch.chdir(tmp_path)
    # A line of the log may hold a name that is no UTF-8, which pytest could not send from one process to another.
    monkeypatch.setattr(logging.root.manager, "disable", logging.CRITICAL)
    for name, data in {
        "garbage.txt": b"hello, this is\nno such file = [\n",
        "random.bin": bytes(range(256)) * 9,
        "empty": b"",
        "garbage.parquet": b"PAR1" + bytes(range(256)) + b"PAR1",
        "garbage.json": b'{"a": ',
        "list.json": b"[1, 2]",
        "latin.toml": b"a = '\xe9'\n",
        "broken.toml": b'[log]\npath = "garbage.parquet"\nuser = "u"\nitem = "i"\ntime = "t"\nlabels = { c = "c" }\n',
        "ids.txt": b"1\nx\n",
    }.items():
        Path(name).write_bytes(data)
    Path("photos").mkdir()
    Path("photos/1.jpg").write_bytes((photos / "001.jpg").read_bytes())
    Path("folder").mkdir()
    Path("full/index").mkdir(parents=True)
    for name in ("index/data.mdb", "config.json", "manifest.json", "backup.json", "schema.json", "results.jsonl"):
        (Path("full") / name).write_bytes(b"{" * 5000)
    names = ["missing", "folder", "empty/below-a-file", "/proc/nobody/may", "\udcff.bin", "n" * 300, "", "full"]
    return [*names, "garbage.txt", "random.bin", "empty", "garbage.parquet", "garbage.json", "list.json", "latin.toml"]


def is_place(parameter: click.Parameter) -> bool:
    """Whether a parameter names a file or a folder."""
    places = ("store", "catalogue", "samples", "warm_start", "out", "queries")
    return isinstance(parameter.type, click.Path) or parameter.name in places


def wrong_values(parameter: click.Parameter, places: list[str]) -> list[str]:
    """Values that are wrong for a parameter, or that at least nobody means."""
    if parameter.name == "server":
        return SERVERS
    if is_place(parameter):
        return places
    if isinstance(parameter.type, click.Choice):
        return CHOICES
    if isinstance(parameter.type, click.types._NumberParamTypeBase):
        return NUMBERS
    return [] if isinstance(parameter, click.Option) and parameter.is_flag else WORDS


def invoked(words: list[str]) -> Result:
    return CliRunner().invoke(crossmedia, words, prog_name="crossmedia", auto_envvar_prefix="CROSSMEDIA")


def check(words: list[str]) -> Result:
    done = invoked(words)
    trace = done.exception
    assert trace is None or isinstance(trace, SystemExit), f"{words} ended with {trace!r}"
    assert done.exit_code in range(6), words
    assert done.exit_code == 0 or done.output.strip(), f"{words} says nothing"
    assert "Traceback" not in done.output, words
    return done


def test_every_command_is_walked() -> None:
    assert set(COMMANDS) == set(RIGHT)


@pytest.mark.parametrize("name", COMMANDS)
def test_wrong_input_ends_in_words(name: str, made: dict[str, str], wrong: list[str]) -> None:
    command: click.Command = crossmedia
    for word in name.split():
        assert isinstance(command, click.Group)
        found = command.get_command(click.Context(command), word)
        assert found is not None
        command = found
    right = RIGHT[name].format(**made).split()
    for parameter in command.params:
        for value in wrong_values(parameter, wrong):
            if isinstance(parameter, click.Argument):
                check([*name.split(), value, *right[1:]])
                continue
            flag, words = parameter.opts[-1], list(right)
            if flag in words:
                words[words.index(flag) + 1] = value
            else:
                words.append(f"{flag}={value}")
            check([*name.split(), *words])


@pytest.mark.parametrize("name", COMMANDS)
def test_json_is_json_when_it_fails(name: str, made: dict[str, str], wrong: list[str]) -> None:
    """For what a command finds out by itself; click's own errors are before it."""
    done = check([*name.split(), *RIGHT[name].format(**made).split(), "--json"])
    if done.exit_code and done.stdout.strip():
        assert {"error", "message"} <= set(json.loads(done.stdout)) or name == "imgserver doctor"


@pytest.mark.parametrize(
    ("command", "missing", "extra"),
    [
        (["trainer", "fit"], "torch", "trainer"),
        (["trainer", "results", "garbage.json", "--plot=auc.png"], "PIL", "trainer"),
        (["imgserver", "versions"], "lmdb", "server"),
        (["imgserver", "precompute", "--catalogue=photos"], "xxhash", "server"),
        (["imgserver", "doctor"], "xxhash", "server"),
    ],
)
def test_packages_that_are_missing_are_named(command: list[str], missing: str, extra: str, wrong: list[str]) -> None:
    code = f"""
import sys
sys.modules[{missing!r}] = None
from crossmedia.config import run
from crossmedia.cli import crossmedia
sys.argv = ["crossmedia", *{command!r}]
run(crossmedia, "CROSSMEDIA")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert f'({missing} is missing). Install them with: pip install "crossmedia[{extra}]"' in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["health", "info"])
def test_who_looks_at_a_server_needs_none_of_its_packages(name: str, tmp_path: Path) -> None:
    """A machine of clients has the bare package."""
    code = f"""
import sys
for name in ("torch", "lmdb", "xxhash", "PIL", "numba"): sys.modules[name] = None
from crossmedia.config import run
from crossmedia.imgserver.cli import imgserver
sys.argv = ["imgserver", {name!r}, "--server=localhost:1", "--timeout-s=0.3"]
run(imgserver, "CROSSMEDIA_IMGSERVER")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    assert "No image server answers at localhost:1" in done.stderr


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "a.csv"), 2, "a.csv: No such file"),
        (PermissionError(errno.EACCES, "Permission denied", "/data"), 2, "/data: Permission denied. Choose another"),
        (OSError(errno.EROFS, "Read-only file system", "/data"), 2, "Read-only file system. Choose another place"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "No space left on device. Make room"),
        (OSError(errno.EMFILE, "Too many open files"), 1, "ulimit -n"),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), 1, "Connection reset by peer"),
        (pa.ArrowInvalid("Could not open\nParquet input"), 2, "cannot be read: Could not open Parquet input."),
        (UnidentifiedImageError("cannot identify image file"), 1, "cannot identify image file"),
        (json.JSONDecodeError("Expecting value", "", 0), 2, "cannot be read: Expecting value"),
        (UnicodeDecodeError("utf-8", b"\xe9", 0, 1, "invalid"), 2, "not UTF-8"),
        (MemoryError(), 1, "not enough memory"),
        (BadInput("So."), 2, "So."),
        (StoreError("So."), 1, "So."),
        (ServerUnavailable("So."), 3, "So."),
    ],
)
def test_what_others_raise_is_put_into_words(error: Exception, code: int, said: str) -> None:
    found = told(error, "imgserver")
    assert found is not None
    assert found.exit_code == code
    assert said in found.message
    assert "\n" not in found.message


@pytest.mark.parametrize("error", [ValueError("x"), KeyError("x"), ImportError("x", name="imgserver.nothing")])
def test_a_bug_keeps_its_trace(error: Exception) -> None:
    assert told(error, "imgserver") is None


def test_a_slip_of_the_pen_is_told_what_was_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert did_you_mean("dinn", ["din", "lr"]) == " Did you mean 'din'?"
    assert did_you_mean("zebra", ["din", "lr"]) == ""
    assert "Did you mean 'flat'?" in invoked(["imgserver", "index", "--kind=flatt"]).output
    assert "'--port'" in invoked(["imgserver", "serve", "--prot=1"]).output
    assert "'precompute'" in invoked(["imgserver", "precompte"]).output
    assert "Did you mean 'din'?" in invoked(["trainer", "fit", "--model=dinn"]).output
    assert "Did you mean 'hidden'?" in invoked(["trainer", "fit", "--model=din", "--set=hiden=8"]).output
    assert "'efficientnet_lite0'?" in invoked(["imgserver", "backbones", "efficientnet_lit0"]).output
    for text, meant in (
        ("[imgserver.serve]\nprot = 1", "'port'"),
        ("[imgserver.serv]\nport = 1", "'serve'"),
        ("[client]\ntls-ac = 'x'", "'tls-ca'"),
    ):
        Path("crossmedia.toml").write_text(text)
        done = invoked(["imgserver", "versions"])
        assert done.exit_code == 2
        assert f"Did you mean {meant}?" in done.output


@pytest.mark.parametrize(
    ("command", "meant"),
    [
        ("trainer evaluate runs/dni", "runs/din"),
        ("trainer score dni.pt2 --exported", "din.pt2"),
        ("trainer export runs/Din", "runs/din"),
        ("trainer report runs/dim", "runs/din"),
        ("trainer results resluts.jsonl", "results.jsonl"),
        ("trainer fit --samples=sampels", "samples"),
        ("features inspect sampels", "samples"),
        ("features build shop/samples.tml", "shop/samples.toml"),
        ("imgserver manifest phtos", "photos"),
        ("imgserver precompute --catalogue=phtos", "photos"),
        ("imgserver precompute --head=runs/din/heat.safetensors", "runs/din/head.safetensors"),
        ("imgserver import photos/vectors.parqet --name=x", "photos/vectors.parquet"),
        ("imgserver restore phtos --store=new", "photos"),
    ],
)
def test_a_place_that_is_not_there_is_told_with_the_nearest(
    command: str, meant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for file in ("runs/din/head.safetensors", "photos/vectors.parquet", "samples/x", "shop/samples.toml"):
        Path(file).parent.mkdir(parents=True)
        Path(file).touch()
    for file in ("din.pt2", "results.jsonl", ".phtos2"):
        Path(file).touch()
    done = check(command.split())
    assert done.exit_code == 2
    assert done.output.count("Did you mean") == 1
    assert f"Did you mean {meant!r}?" in done.output


def test_what_is_there_or_far_from_all_is_told_with_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("runs", "run"):
        Path(name).mkdir()
    assert "Did you mean" not in check(["trainer", "evaluate", "runs"]).output
    assert "Did you mean" not in check(["trainer", "evaluate", "elsewhere"]).output
    assert "Did you mean" not in check(["trainer", "evaluate", "nowhere/at/all"]).output


@pytest.mark.parametrize(
    "error",
    [
        ModuleNotFoundError("No module named 'b'", name="b"),
        MemoryError("b"),
        BadInput("A table cannot be used."),  # the b in it is no folder
        BadInput("The file b.parquet is damaged."),
        BadInput("The folder a/b is damaged."),
        ServerUnavailable("No image server answers at b."),
    ],
)
def test_what_is_not_about_a_place_is_told_with_none(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bs").mkdir()
    assert place_meant(error, str(error), ["b"]) == ""
    assert place_meant(BadInput(""), "There is no store in b.", ["b"]) == " Did you mean 'bs'?"
    assert place_meant(BadInput(""), "'b' holds no samples", ["b"]) == " Did you mean 'bs'?"


@pytest.mark.parametrize("module", ["crossmedia.trainer", "trainer"])
def test_a_command_is_called_by_the_name_that_people_type(module: str) -> None:
    """A demo, and torchrun, start it by python -m."""
    done = subprocess.run(
        [sys.executable, "-m", module, "evaluate", "nowhere"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    assert done.returncode == 2
    assert done.stderr.startswith("crossmedia trainer evaluate: nowhere holds no run")


def test_a_file_name_that_is_no_utf8_is_said(tmp_path: Path) -> None:
    """In a process of its own: what is printed must be bytes that every terminal takes."""
    name = os.fsencode(tmp_path) + b"/\xff.toml"
    done = subprocess.run(
        [os.fsencode(sys.executable), b"-m", b"features", b"build", name], capture_output=True, env={**os.environ}
    )
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr
    assert b"toml" in done.stderr
