"""Fixtures: real photos, a precomputed store, a daemon in its own process."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import warm
from hypothesis import settings

if TYPE_CHECKING:
    from crossmedia.imgserver.serving.service import ImageService

pytest_plugins = (
    "secured",
    "scoring_server",
)  # fixtures of servers with certificates and tokens, and of scoring servers
settings.register_profile("untimed", deadline=None)  # how long an example takes is the machine's matter
settings.load_profile("untimed")

ROOT = Path(__file__).resolve().parent.parent
PHOTOS = ROOT / "examples" / "grocery" / "images"


def pytest_addoption(parser: pytest.Parser) -> None:
    """``make test-faults KILLS=1000``."""
    parser.addoption(
        "--kills",
        type=int,
        default=190,
        help="Storage writers that tests/faults kills, and nine times as many as it breaks each command.",
    )


@pytest.fixture(scope="session")
def photos() -> Path:
    """The 243 photos that ship with the project."""
    return PHOTOS


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real data that is not part of the project."""
    folder = os.environ.get("CROSSMEDIA_TEST_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("CROSSMEDIA_TEST_DATA does not name the folder of shared test data")
    return Path(folder)


def run_command(
    *arguments: str, check: bool = True, timeout_s: float = 120, limited: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """Run ``python -m crossmedia.…`` as a process: forked, see ``warm``; started anew behind another command."""
    module, *options = arguments
    arguments = (f"crossmedia.{module}", *options)
    if limited:
        command = [*limited, sys.executable, "-m", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)
    else:
        done = warm.run(arguments, timeout_s)
    assert not check or done.returncode == 0, f"{arguments} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture(scope="session")
def graph_cache(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Path:
    """A store with a converted backbone and 100 embedded photos; copied, never changed, made by the first worker."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "precomputed"
    folder.mkdir(exist_ok=True)
    store, ids, made = folder / "store", folder / "ids.txt", folder / "made"
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            ids.write_text("\n".join(str(i) for i in range(100)))
            arguments = ["imgserver", "precompute", f"--store={store}", f"--catalogue={photos}", f"--ids={ids}"]
            run_command(*arguments, "--dim=16")
            made.touch()
    return store


@pytest.fixture
def store(graph_cache: Path, tmp_path: Path) -> Path:
    """A store of its own for one test: images 0 to 99 embedded, dim 16."""
    return copy_store(graph_cache, tmp_path / "store")


@pytest.fixture
def service(store: Path, photos: Path) -> Iterator[ImageService]:
    """A service in this process, over that store and all photos."""
    from crossmedia.imgserver.serving.service import ImageService, ServiceConfig
    from crossmedia.imgserver.vision.machine import Machine
    from crossmedia.imgserver.vision.photo_source import PhotoSource

    made = ImageService(ServiceConfig(store, PhotoSource(str(photos)), machine=Machine(threads=2)))
    yield made
    made.close()


def soon(true: Callable[[], bool], seconds: float = 5.0) -> bool:
    """Whether something becomes true."""
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.02)
    return true()


def copy_store(source: Path, target: Path) -> Path:
    """A copy of a store at rest; cp keeps the holes in row files, which Python's copytree would fill."""
    subprocess.run(["cp", "-a", source, target], check=True)
    (target / "index" / "data.file").unlink(missing_ok=True)  # known to be whole, so nobody has to look
    return target


def free_addresses(n: int) -> list[str]:
    """Addresses at which nobody listens, for servers that must know theirs before they start."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(n)]
        return [f"127.0.0.1:{opened.getsockname()[1]}" for opened in sockets]


def ownership(servers: list[str], me: str) -> list[str]:
    """The options that say which server of a list is meant."""
    return [f"--servers={','.join(servers)}", f"--me={me}"]


def shared_out(full: Path, folder: Path, servers: list[str]) -> list[Path]:
    """A store for each server with the images that it owns, made from a store of all by the commands of a user."""
    folder.mkdir()
    stores = [folder / f"store-{n}" for n in range(len(servers))]
    moved = folder / "moved"
    first = ["imgserver", "reshard", f"--store={copy_store(full, stores[0])}", f"--out={moved}"]
    first += ownership(servers, servers[0])
    run_command(*first)
    for store, server in zip(stores[1:], servers[1:], strict=True):
        run_command("imgserver", "merge", str(moved), f"--store={store}", *ownership(servers, server))
    run_command(*first, "--drop")
    return stores


def resident(pid: int) -> int:
    """Bytes of memory that a process holds now."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class DaemonProcess:
    """A daemon started by ``imgserver serve --background``; ``files`` is the limit of those that it may have open."""

    def __init__(self, store: Path, catalogue: Path | None, *options: str, files: int | None = None):
        self.store = store
        arguments = ["imgserver", "serve", f"--store={store}", "--port=0", "--background", "--json", *options]
        if catalogue is not None:
            arguments.append(f"--catalogue={catalogue}")
        limited = () if files is None else ("prlimit", f"--nofile={files}:{files}")
        found = json.loads(run_command(*arguments, limited=limited).stdout)
        self.address: str = found["address"]
        self.pid: int = found["pid"]

    def stop(self) -> None:
        run_command("imgserver", "stop", f"--store={self.store}", check=False)


@pytest.fixture(scope="session")
def daemon(graph_cache: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    """A daemon over a copy of the precomputed store and all 243 photos, shared by tests that change no state of it."""
    copy = copy_store(graph_cache, tmp_path_factory.mktemp("daemon") / "store")
    process = DaemonProcess(copy, photos)
    yield process
    process.stop()


@contextmanager
def name_server(hosts: Path) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """A DNS server on loopback that knows the names of a hosts file; SIGHUP has it read the file again.

    Yields:
        its port and its process.
    """
    if shutil.which("dnsmasq") is None:
        pytest.skip("dnsmasq, a DNS server, is not installed")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = ["dnsmasq", "--no-daemon", "--no-resolv", "--no-hosts", f"--addn-hosts={hosts}", f"--port={port}"]
    process = subprocess.Popen([*command, "--listen-address=127.0.0.1", "--bind-interfaces"], stderr=subprocess.DEVNULL)
    try:
        yield port, process
    finally:
        process.terminate()
        process.wait()
