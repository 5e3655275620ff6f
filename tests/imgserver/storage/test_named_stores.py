"""A command that names a store talks to that store's server, or to none; a slip of the pen makes no store."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import DaemonProcess, copy_store, run_command

from crossmedia.imgserver.cli import imgserver
from crossmedia.imgserver.client import ImageClient
from crossmedia.imgserver.commands import options
from crossmedia.imgserver.storage.store import Store
from crossmedia.service.running import running_daemon


@pytest.fixture
def default_server(daemon: DaemonProcess, monkeypatch: pytest.MonkeyPatch) -> str:
    """A server of another store, where commands look that name none."""
    monkeypatch.setattr(options, "DEFAULT_SERVER", daemon.address)
    return daemon.address


@pytest.mark.parametrize("how", ["flag", "environment", "file", "place"])
@pytest.mark.parametrize("command", ["health", "info", "search", "add"])
def test_a_store_that_nobody_serves_is_said(
    default_server: str,
    store: Path,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    how: str,
) -> None:
    (tmp_path / "777777.jpg").write_bytes((photos / "007.jpg").read_bytes())
    arguments = {"search": ["5"], "add": [str(tmp_path / "777777.jpg")]}.get(command, [])
    monkeypatch.chdir(tmp_path)  # where the fixture's store has the default name
    env: dict[str, str] = {}
    if how == "flag":
        arguments += [f"--store={store}"]
    elif how == "environment":
        env = {f"CROSSMEDIA_IMGSERVER_{command.upper()}_STORE": str(store)}
    elif how == "file":
        (tmp_path / "crossmedia.toml").write_text(f'[imgserver]\nstore = "{store}"\n')
    done = CliRunner().invoke(imgserver, [command, *arguments], env=env, auto_envvar_prefix="CROSSMEDIA_IMGSERVER")
    assert done.exit_code == 3, done.output
    assert "No image server runs for the store" in done.output
    with ImageClient(default_server) as client:
        assert not client.get([777777]).ok.any(), "nothing went to another store's server"


# With --store, and what else they need; those that make a store are not among them.
OF_A_STORE = [
    *(
        "serve",
        "health",
        "info",
        "stop",
        "search 5",
        "versions",
        "index",
        "projector",
        "duplicates",
        "semantic-ids",
        "doctor",
        "mend",
    ),
    *("backup --to=copy", "compact", "export", "compress --bytes=4", "publish --to=redis://localhost:1"),
    "reshard --servers=a:1,b:1 --me=a:1",
]


@pytest.mark.parametrize("command", OF_A_STORE)
def test_a_store_that_is_not_there_is_said(
    default_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkdir("store")
    done = CliRunner().invoke(imgserver, [*command.split(), "--store=sotre"])
    assert done.exit_code == 2, done.output
    assert "There is no store in sotre. Check the name" in done.output
    assert done.output.endswith("Did you mean 'store'?\n")
    assert os.listdir(tmp_path) == ["store"]


def test_every_command_of_a_store_is_meant() -> None:
    making = {"precompute", "import", "merge", "restore", "add"}  # 'add' takes a photo that is there
    of_a_store = {name for name, found in imgserver.commands.items() if any(p.name == "store" for p in found.params)}
    assert of_a_store - making == {command.split()[0] for command in OF_A_STORE}


def test_who_names_none_gets_the_default(default_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(imgserver, ["health"])
    assert done.exit_code == 0, done.output
    assert default_server in done.output


def test_a_server_that_is_named_is_asked(default_server: str, store: Path) -> None:
    assert CliRunner().invoke(imgserver, ["health", f"--server={default_server}"]).exit_code == 0
    both = CliRunner().invoke(imgserver, ["health", f"--server={default_server}", f"--store={store}"])
    assert both.exit_code == 2
    assert "only one of them could be asked" in str(both.output) + str(both.exception)


def test_a_cluster_of_no_server_here_is_said_without_its_password(default_server: str) -> None:
    done = CliRunner().invoke(imgserver, ["info", "--store=redis://user:secret@h1:1"])
    assert done.exit_code == 3
    assert "--server" in done.output
    assert "secret" not in done.output


@pytest.mark.parametrize("how", [(), ("--background",)])
@pytest.mark.parametrize("photos_too", [False, True])
def test_serving_makes_no_store(tmp_path: Path, photos: Path, how: tuple[str, ...], photos_too: bool) -> None:
    more = (f"--catalogue={photos}",) if photos_too else ()
    done = run_command("imgserver", "serve", f"--store={tmp_path / 'sotre'}", "--port=0", *more, *how, check=False)
    assert done.returncode == 2
    assert f"There is no store in {tmp_path / 'sotre'}" in done.stderr
    assert not (tmp_path / "sotre").exists()


def test_neither_photos_nor_vectors_is_said(tmp_path: Path) -> None:
    Store(tmp_path / "store").close()
    done = run_command("imgserver", "serve", f"--store={tmp_path / 'store'}", "--port=0", "--background", check=False)
    assert done.returncode == 2
    assert "has no vectors, and without --catalogue or --texts there is nothing to make them of" in done.stderr


def test_health_of_a_dead_server_says_what_to_do(store: Path, graph_cache: Path, tmp_path: Path) -> None:
    done = run_command("imgserver", "health", "--server=localhost:1", "--timeout-s=1", check=False)
    assert done.returncode == 3
    assert "No image server answers at localhost:1. Start one" in done.stderr
    process = DaemonProcess(copy_store(graph_cache, tmp_path / "other"), None)
    os.kill(process.pid, 9)
    while running_daemon(process.store):
        time.sleep(0.05)
    done = run_command("imgserver", "health", f"--store={process.store}", check=False)
    assert done.returncode == 3
    assert "No image server runs for the store" in done.stderr
