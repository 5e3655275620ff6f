"""Each ``Example:`` in the docstring of a public name runs, in a folder that has what a user of the README has.

The folder of an example holds ``store`` (images 0 to 99, 16 numbers each), ``photos`` (243 of them), ``photos.csv``
(what they show), ``samples.toml`` with its logs, ``samples`` built from them, and ``runs/din``, trained on both;
``localhost:7070`` is a daemon over such a store. An example is plain Python, or lines as of a Python prompt, whose
answers are compared then.
"""

from __future__ import annotations

import doctest
import inspect
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest
from conftest import DaemonProcess, copy_store
from made_samples import make_samples

import crossmedia
import crossmedia.torch
from crossmedia import imgserver
from crossmedia.imgserver import client

EXAMPLE = re.compile(r"^Example:\n((?:(?: {4}.*)?\n)+)", flags=re.MULTILINE)
# Public names that have no example yet.
# What is made by others and handed out, or enters and leaves a ``with``.
NEEDS_NONE = {"Status", "Neighbours", "FetchStats", "close", "deadline", "count", "described"}


def public() -> dict[str, Any]:
    """What a user imports, and the public methods of it, by name."""
    found: dict[str, Any] = {"open_local": imgserver.open_local}
    found |= {name: getattr(crossmedia, name) for name in crossmedia.__all__}
    found |= {name: getattr(client, name) for name in client.__all__}
    found |= {name: getattr(crossmedia.torch, name) for name in crossmedia.torch.__all__}
    for name, value in list(found.items()):
        for method, function in vars(value).items() if inspect.isclass(value) else ():
            function = getattr(function, "__func__", function)
            if isinstance(function, FunctionType) and not method.startswith("_"):
                found[f"{name}.{method}"] = function
    return found


def examples() -> dict[str, str]:
    """The text of each example, by the name of what it stands in."""
    found = {name: EXAMPLE.search(f"{inspect.getdoc(value) or ''}\n") for name, value in public().items()}
    return {name: inspect.cleandoc(match[1]) for name, match in found.items() if match}


def needs_one(name: str) -> bool:
    """Whether a name should have an example: methods of other classes than these are shown by that of the class."""
    first, _, method = name.partition(".")
    if (method or first) in NEEDS_NONE:
        return False
    return not method or first in ("ImageClient", "HeadServers")


@pytest.mark.parametrize("name", [name for name in public() if needs_one(name)])
def test_what_is_public_has_an_example(name: str) -> None:
    assert name in examples(), f"{name} has no Example: in its docstring"


@pytest.fixture(scope="module")
def made(graph_cache: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that examples name; copied, never changed."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "photos").symlink_to(photos)
    shutil.copy(photos.parent / "photos.csv", folder)
    make_samples(folder, 100, 1500, {i: i for i in range(90)})
    copy_store(graph_cache, folder / "store")
    arguments = ["--samples=samples", "--out=runs/din", "--store=store", "--epochs=1", "--batch-size=256"]
    command = [sys.executable, "-m", "crossmedia.trainer", "fit", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def served(graph_cache: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a daemon, with a similarity index."""
    store = copy_store(graph_cache, tmp_path_factory.mktemp("served") / "store")
    subprocess.run([sys.executable, "-m", "crossmedia.imgserver", "index", f"--store={store}"], check=True)
    process = DaemonProcess(store, photos)
    yield process.address
    process.stop()


@pytest.mark.parametrize("name", list(examples()))
def test_the_example_runs(name: str, made: Path, served: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subprocess.run(["cp", "-a", f"{made}{os.sep}.", tmp_path], check=True)
    monkeypatch.chdir(tmp_path)
    text = examples()[name].replace("localhost:7070", served)
    place: dict[str, Any] = {"__name__": "example"}
    if ">>>" not in text:
        exec(compile(text, name, "exec"), place)
        return
    example = doctest.DocTestParser().get_doctest(f"{text}\n", place, name, None, None)
    said: list[str] = []
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE).run(example, out=said.append)
    assert not said, "".join(said)
