"""A client that waits for a server says so at once, and that it went on; a command says what is kept."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from conftest import DaemonProcess, free_addresses
from made_samples import make_samples

from crossmedia.config import KEPT, Command
from crossmedia.disk import replacing
from crossmedia.door import told
from crossmedia.errors import BadInput, DeadlineExceeded, ServerUnavailable, StoreError
from crossmedia.imgserver.client import ImageClient, silence
from crossmedia.imgserver.client.retries import Deadline, Tries, until_answered


def test_waiting_is_said_once_and_so_is_its_end(caplog: pytest.LogCaptureFixture) -> None:
    began = time.monotonic()

    def call(timeout_s: float) -> str:
        if time.monotonic() - began < 3:
            raise ServerUnavailable("No image server answers at there:1.")
        return "answer"

    assert until_answered(call, Deadline.after(20)) == "answer"
    first, last = caplog.messages
    assert re.fullmatch(r"Waiting for at most (19|20) s more: No image server answers at there:1\.", first)
    assert re.fullmatch(r"The image server answers again, after [3-9] s\.", last)


def test_a_moment_is_not_worth_a_word(caplog: pytest.LogCaptureFixture) -> None:
    tries = Tries(Deadline.after(20))
    tries.wait(ServerUnavailable("No."))
    tries.wait(ServerUnavailable("No."))
    tries.answered()
    assert caplog.messages == []


def test_several_that_wait_say_it_once(caplog: pytest.LogCaptureFixture) -> None:
    (address,) = free_addresses(1)

    def ask() -> None:
        with ImageClient(address, timeout_s=2.5) as client, pytest.raises(ServerUnavailable) as failed:
            client.get([1])
        assert failed.value.tried_s > 0.5

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    said = [message for message in caplog.messages if message.startswith("Waiting for")]
    assert 1 <= len(said) <= 3, "once a second at most, however many wait"


@pytest.mark.parametrize(("goes_on", "tried_s", "kept"), [(True, 9.0, True), (True, 0.0, False), (False, 9.0, False)])
def test_what_is_kept_is_said_at_the_end(goes_on: bool, tried_s: float, kept: bool) -> None:
    @click.command(cls=Command, goes_on=goes_on)
    def command() -> None:
        error = ServerUnavailable("Nobody answers.")
        error.tried_s = tried_s
        raise error

    done = CliRunner().invoke(command, [])
    assert done.exit_code == 3
    assert (KEPT in done.output) == kept


def test_a_mistake_says_nothing_of_what_is_kept() -> None:
    @click.command(cls=Command, goes_on=True)
    def command() -> None:
        raise BadInput("So.")

    assert KEPT not in CliRunner().invoke(command, []).output


def test_training_says_that_it_waits_when_its_server_dies(store: Path, tmp_path: Path) -> None:
    server = DaemonProcess(store, None)
    samples = make_samples(tmp_path, 60, 4000, {item: item for item in range(60)})
    command = [sys.executable, "-m", "crossmedia.trainer", "fit", f"--samples={samples}", f"--server={server.address}"]
    command += ["--epochs=500", "--patience=500", "--batch-size=8", "--timeout-s=6", f"--out={tmp_path / 'run'}"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as training:
        assert training.stderr is not None
        with ImageClient(server.address) as client:
            while client.info().counters.ids_requested < 500:
                assert training.poll() is None
                time.sleep(0.05)
        os.kill(server.pid, 9)
        died = time.monotonic()
        first = training.stderr.readline()
        assert time.monotonic() - died < 4, "at once, not when it gives up"
        assert first.startswith("Waiting for at most")
        rest = training.stderr.read()
        assert training.wait(timeout=30) == 3
    assert time.monotonic() - died < 15, "one deadline, not one for each batch that was asked for ahead"
    assert "No image server answers" in rest
    assert KEPT in rest


def test_a_server_that_hangs_is_said_to_be_silent(
    daemon: DaemonProcess, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(silence, "SILENT_S", 0.3)
    with ImageClient(daemon.address, timeout_s=3) as client:
        assert client.get([1]).ok.all()
        assert caplog.messages == []
        os.kill(daemon.pid, signal.SIGSTOP)
        try:
            with pytest.raises(DeadlineExceeded):
                client.get([2])
        finally:
            os.kill(daemon.pid, signal.SIGCONT)
    said = [message for message in caplog.messages if "has been silent" in message]
    assert len(said) == 1
    assert "Waiting for at most" in said[0]


def test_a_place_that_cannot_be_written_is_a_mistake_and_no_full_disk(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="Choose another place") as failed, replacing(tmp_path / "file" / "x"):
        pass
    found = told(failed.value, "imgserver")
    assert found is not None
    assert found.exit_code == 2
