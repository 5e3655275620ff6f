"""Commands as processes of their own that have nothing left to import: forked from one that imported all of it.

``python -m imgserver precompute`` spends seconds of CPU on torch, numba and OpenVINO, and most tests run several such
commands. Here each worker of pytest keeps one process that has imported what commands import, and has run nothing. A
command is a fork of it, with its own arguments, environment, folder and files, and what it does from ``__main__`` on is
what it does for a user. A daemon that it starts by ``--background`` is another such fork.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import cache
from types import SimpleNamespace
from typing import IO, Any

MODULES = (
    *(
        "crossmedia.imgserver.cli",
        "crossmedia.features.cli",
        "crossmedia.trainer.cli",
        "crossmedia.features.writing.build",
        "crossmedia.trainer.fit",
        "crossmedia.trainer.evaluate",
        "pandas",
    ),
    *(
        "crossmedia.imgserver.client",
        "crossmedia.imgserver.serving.process",
        "crossmedia.imgserver.storage.table",
        "crossmedia.imgserver.storage.versions",
    ),
    *(
        "crossmedia.imgserver.offline.precompute",
        "crossmedia.imgserver.operations.doctor",
        "crossmedia.imgserver.vision.backbones",
        "fsspec",
    ),
)
MESSAGE_BYTES = 1 << 17


class Process:
    """A command that runs; as much of ``subprocess.Popen`` as ``crossmedia.service.background`` uses.

    Args:
        command: a module of ours and its arguments.
        stdout, stderr: files to write to.
        start_new_session: as of ``Popen``.
        address: of the process to fork.
    """

    def __init__(
        self, command: Sequence[str], *, stdout: IO[Any], stderr: IO[Any], start_new_session: bool, address: str
    ):
        about = {"command": list(command), "environment": dict(os.environ), "folder": os.getcwd()}
        message = json.dumps(about | {"session": start_new_session}).encode()
        self.returncode: int | None = None
        self._connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._connection.connect(address)
        with open(os.devnull, "rb") as nothing:
            socket.send_fds(self._connection, [message], [nothing.fileno(), stdout.fileno(), stderr.fileno()])
        self.pid = int(self._connection.recv(MESSAGE_BYTES))

    def poll(self, timeout_s: float = 0) -> int | None:
        """The exit status once there is one."""
        if self.returncode is None and select.select([self._connection], [], [], timeout_s)[0]:
            self.returncode = int(self._connection.recv(MESSAGE_BYTES))
            self._connection.close()
        return self.returncode

    def terminate(self) -> None:
        os.kill(self.pid, signal.SIGTERM)


def run(command: Sequence[str], timeout_s: float) -> subprocess.CompletedProcess[str]:
    """As ``subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, timeout=timeout_s)``."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = Process(command, stdout=out, stderr=err, start_new_session=False, address=_address())
        code = process.poll(timeout_s)
        if code is None:
            os.kill(process.pid, signal.SIGKILL)
            raise subprocess.TimeoutExpired(list(command), timeout_s)
        for file in (out, err):
            file.seek(0)
        return subprocess.CompletedProcess(list(command), code, out.read(), err.read())


@cache
def _address() -> str:
    """Where a process that has imported all waits; it ends with this one."""
    folder = tempfile.TemporaryDirectory(prefix="warm-")
    address = f"{folder.name}/s"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind(address)
        listening.listen(64)
        command = [sys.executable, "-P", __file__, str(listening.fileno()), address]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[listening.fileno()])

    def end() -> None:
        assert process.stdin is not None
        process.stdin.close()
        process.wait()
        folder.cleanup()

    atexit.register(end)
    return address


def _forked(listening: socket.socket) -> dict[str, Any]:
    """Fork for each message that comes; returns in the forks alone, with their message. The end of stdin ends it."""
    running: dict[int, tuple[int, socket.socket]] = {}
    while True:
        for ready in select.select([0, listening.fileno(), *running], [], [])[0]:
            if ready == 0:
                os._exit(0)
            if ready != listening.fileno():
                pid, connection = running.pop(ready)
                os.close(ready)
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                with connection, contextlib.suppress(OSError):  # nobody waits for it any more
                    connection.send(str(code).encode())
                continue
            connection, _ = listening.accept()
            message, files, _, _ = socket.recv_fds(connection, MESSAGE_BYTES, 3)
            if pid := os.fork():
                for file in files:
                    os.close(file)
                connection.send(str(pid).encode())
                running[os.pidfd_open(pid)] = pid, connection
                continue
            for number, file in enumerate(files):
                os.dup2(file, number)
            for file in [*files, *running, listening.detach(), connection.detach()]:
                os.close(file)
            for _, other in running.values():
                other.close()
            about: dict[str, Any] = json.loads(message)
            return about


def _background(address: str) -> None:
    """Let ``--background`` fork too, in the place of a start of Python."""

    def popen(command: list[str], *, stdin: int, stdout: IO[Any], stderr: IO[Any], start_new_session: bool) -> Process:
        assert command[:2] == [sys.executable, "-m"]
        assert stdin == subprocess.DEVNULL
        session = start_new_session
        return Process(command[2:], stdout=stdout, stderr=stderr, start_new_session=session, address=address)

    background = importlib.import_module("crossmedia.service.background")
    background.subprocess = SimpleNamespace(Popen=popen, DEVNULL=subprocess.DEVNULL)  # type: ignore[attr-defined]


def main(listening: int, address: str) -> None:
    """What ``_address`` starts."""
    for name in MODULES:
        importlib.import_module(name)
    importlib.import_module("crossmedia.imgserver.vision.engines").runtime()
    numbers = importlib.import_module("numpy").arange(3)
    importlib.import_module("crossmedia.imgserver.storage.hashtable").IdTable().put(
        numbers, numbers
    )  # what numba itself imports
    _background(address)
    gc.freeze()  # or each fork would look at all of it again when it ends
    about = _forked(socket.socket(fileno=listening))
    if about["session"]:
        os.setsid()
    os.chdir(about["folder"])
    os.environ.clear()
    os.environ.update(about["environment"])
    time.tzset()
    module, *arguments = about["command"]
    sys.argv = [module, *arguments]
    sys.path.insert(0, about["folder"])
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
