"""Which daemon runs for a folder on this machine, and where it answers. Nothing heavy is imported."""

from __future__ import annotations

import fcntl
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from crossmedia.errors import BadInput
from crossmedia.secret_files import private_opener

DAEMON_FILE = "daemon.json"  # where a daemon answers, while it runs
LOCK_FILE = "daemon.lock"
LOCK_TRIES = 5
GRACE_S = 10.0  # that a daemon takes to drain


@dataclass(frozen=True)
class Program:
    """A kind of daemon, as a user knows it.

    Attributes:
        title: what it is called in messages.
        command: group of its commands; it has ``serve``, and ``stop``.
        folder: what its folder is to a user, and the name of the option.
    """

    title: str
    command: str
    folder: str

    @property
    def argv(self) -> list[str]:
        """How its command is started in a process of its own."""
        return [sys.executable, "-m", f"crossmedia.{self.command}", "serve"]


@dataclass(frozen=True)
class Daemon:
    """A running daemon.

    Attributes:
        pid: its process.
        address: where it answers on this machine.
        metrics_port: where it serves metrics over HTTP; None: nowhere.
        rest_port: where it answers by HTTP, beside gRPC; None: nowhere.
    """

    pid: int
    address: str
    metrics_port: int | None = None
    rest_port: int | None = None


def running_daemon(folder: Path) -> Daemon | None:
    """The daemon that runs for a folder on this machine, or None."""
    try:
        told = (folder / DAEMON_FILE).read_bytes()
        from crossmedia.notes import read_note  # of the server's packages, which are there where something is served

        daemon = Daemon(**read_note(told))
        with locked(folder, fcntl.LOCK_SH):
            return None  # no daemon holds it: the file was left behind by a kill
    except BlockingIOError:
        return daemon
    except (OSError, ValueError, TypeError):
        return None


@contextmanager
def locked(folder: Path, kind: int = fcntl.LOCK_EX) -> Iterator[None]:
    """Hold what only one daemon of a folder can; a process id would not do, for another program may have it by now.

    Raises:
        BlockingIOError: a daemon holds it.
    """
    with open(folder / LOCK_FILE, "a", opener=private_opener) as file:
        for left in reversed(range(LOCK_TRIES)):  # who only looks holds it for a moment too
            try:
                fcntl.flock(file, kind | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not left or kind == fcntl.LOCK_SH:
                    raise
                time.sleep(0.05)
        yield


def make_writable(folder: Path) -> None:
    """Make the folder in which a daemon keeps what is its own, and the file that it locks.

    Raises:
        BadInput: that cannot be written.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        open(folder / LOCK_FILE, "a", opener=private_opener).close()
    except OSError as error:
        raise BadInput(
            f"The folder {folder} cannot be written: {error}. Choose another one, or let this user write there."
        ) from error
