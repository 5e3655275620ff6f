"""A daemon in the background: start it as a process of its own, and stop it. Nothing heavy is imported."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

from crossmedia.errors import BadInput, ServerFault, ServerUnavailable
from crossmedia.interrupts import undone_if_interrupted
from crossmedia.secret_files import private_opener
from crossmedia.service.running import GRACE_S, Daemon, Program, make_writable, running_daemon

LOG_FILE = "daemon.log"
START_S, END_S = 60.0, GRACE_S + 10.0  # that are waited for it to answer, and to end


def run_in_background(program: Program, folder: Path, arguments: list[str]) -> Daemon:
    """Start a daemon as a process of its own that outlives this one; return when it answers.

    Args:
        program: what serves.
        folder: of the daemon; its log goes to ``daemon.log`` there.
        arguments: of its command ``serve``.

    Raises:
        BadInput: another daemon holds the folder, or it cannot be written.
        ServerFault: it ended, or did not answer in time; the message has the end of its log.
    """
    if other := running_daemon(folder):
        raise BadInput(f"The {program.folder} {folder} is already served by process {other.pid} at {other.address}.")
    make_writable(folder)
    log_file = folder / LOG_FILE
    with open(log_file, "ab", opener=private_opener) as out:
        process = subprocess.Popen(
            [*program.argv, *arguments], stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )
    deadline = time.monotonic() + START_S
    with undone_if_interrupted(process.terminate):
        while time.monotonic() < deadline and process.poll() is None:
            daemon = running_daemon(folder)
            if daemon is not None and daemon.pid == process.pid:
                return daemon
            time.sleep(0.05)
    ended = process.poll()
    if ended is None:
        process.terminate()
    tail = "\n".join(log_file.read_text(errors="replace").splitlines()[-5:])
    if ended == BadInput.exit_code:
        _, _, reason = tail.rpartition(" serve: ")  # this command says its own name
        raise BadInput(reason or f"The {program.title} refused to start.")
    raise ServerFault(f"The {program.title} did not start. The end of {log_file}:\n{tail}")


def stop_daemon(program: Program, folder: Path) -> Daemon:
    """Ask the daemon of a folder to drain and end; return when it has.

    Raises:
        ServerUnavailable: there is none, or it does not end in time.
    """
    daemon = running_daemon(folder)
    if daemon is None:
        raise ServerUnavailable(f"No {program.title} runs for the {program.folder} {folder}.")
    os.kill(daemon.pid, signal.SIGTERM)
    deadline = time.monotonic() + END_S
    while running_daemon(folder) == daemon:
        if time.monotonic() > deadline:
            raise ServerUnavailable(f"Process {daemon.pid} did not end within {END_S:.0f} s of SIGTERM.")
        time.sleep(0.05)
    return daemon
