"""What a daemon is apart from images: another one, built of ``crossmedia.service``, starts, answers and ends alike."""

from __future__ import annotations

import os
import signal
import stat
import threading
import time
import urllib.request
from pathlib import Path

import pytest
from greeter import GREETER

from crossmedia.errors import BadInput, ServerUnavailable
from crossmedia.service.background import LOG_FILE, run_in_background, stop_daemon
from crossmedia.service.running import DAEMON_FILE, Daemon, running_daemon

# A daemon outlives who started it, and nobody waits for its end as for that of a child.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def greeted(daemon: Daemon, path: str = "/") -> bytes:
    with urllib.request.urlopen(f"http://{daemon.address}{path}", timeout=20) as reply:
        said: bytes = reply.read()
    return said


def test_a_daemon_answers_drains_and_is_the_only_one_of_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "made"
    daemon = run_in_background(GREETER, folder, [f"--folder={folder}"])
    try:
        assert daemon.address.startswith("127.0.0.1:"), "where it answers from here"
        assert (running_daemon(folder), greeted(daemon)) == (daemon, b"hello")
        assert stat.S_IMODE((folder / DAEMON_FILE).stat().st_mode) == 0o600
        with pytest.raises(BadInput, match=f"The folder {folder} is already served by process {daemon.pid} at"):
            run_in_background(GREETER, folder, [f"--folder={folder}"])
        said: list[bytes] = []
        slow = threading.Thread(target=lambda: said.append(greeted(daemon, "/slow")))
        slow.start()
        time.sleep(0.3)  # it is under way by now
    finally:
        assert stop_daemon(GREETER, folder) == daemon
    slow.join()
    assert said == [b"hello"], "a call under way ended"
    assert not (folder / DAEMON_FILE).exists()
    with pytest.raises(ServerUnavailable, match=f"No greeter runs for the folder {folder}"):
        stop_daemon(GREETER, folder)


def test_what_keeps_a_daemon_from_starting_is_said(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    daemon = run_in_background(GREETER, first, [f"--folder={first}"])
    try:
        port = daemon.address.rpartition(":")[2]
        with pytest.raises(BadInput, match=r"^The address .* cannot be bound: the port is taken"):
            run_in_background(GREETER, second, [f"--folder={second}", f"--port={port}"])
        assert running_daemon(second) is None
        assert "cannot be bound" in (second / LOG_FILE).read_text()
    finally:
        stop_daemon(GREETER, first)


def test_a_killed_daemon_leaves_its_folder_to_the_next(tmp_path: Path) -> None:
    killed = run_in_background(GREETER, tmp_path, [f"--folder={tmp_path}"])
    os.kill(killed.pid, signal.SIGKILL)
    os.waitpid(killed.pid, 0)
    assert (tmp_path / DAEMON_FILE).exists()
    assert running_daemon(tmp_path) is None
    daemon = run_in_background(GREETER, tmp_path, [f"--folder={tmp_path}"])
    assert stop_daemon(GREETER, tmp_path) == daemon != killed
