"""Frames of HTTP/2 in floods, streams and connections that never end: what is served meanwhile, and what is left of it.

Attackers run in a process of their own, on the same cores as server and caller; a control floods a server that does
nothing but read, so that what the attacker's own work costs can be told from what the server's does.
"""

from __future__ import annotations

import json
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import flooder
import numpy as np
import pytest
from conftest import DaemonProcess, copy_store

from crossmedia.errors import CrossMediaError
from crossmedia.imgserver.client import ImageClient

SECONDS, CONNECTIONS = 6.0, 4
AFTER_S = 10.0
IDS = np.arange(100)
# Of all floods; and of those whose frames cost gRPC much, or that open calls, each of which has a thread.
P99_S, P99_OF_S = 2.0, {"hpack": 15.0, "streams": 15.0}
MIB, MIB_OF = 300, {"hpack": 1500}


@dataclass(frozen=True)
class Held:
    """What a process holds: memory in MiB, open files, threads."""

    mib: int
    files: int
    threads: int

    @classmethod
    def of(cls, pid: int) -> Held:
        status = Path(f"/proc/{pid}/status").read_text()

        def number(name: str) -> int:
            return int(status.partition(f"{name}:")[2].split()[0])

        return cls(number("VmRSS") >> 10, len(os.listdir(f"/proc/{pid}/fd")), number("Threads"))


@dataclass
class Beside:
    """What a caller saw who asks for stored vectors on a connection of his own, one call after the other."""

    p99_s: float
    calls: int
    failed: int
    most_mib: int

    @classmethod
    def of(cls, client: ImageClient, pid: int, seconds: float) -> Beside:
        took, failed, most, end = [], 0, 0, time.monotonic() + seconds
        while (started := time.monotonic()) < end:
            try:
                assert client.get(IDS, timeout_s=20).ok.all()
            except CrossMediaError as error:
                print(f"\n{error}")
                failed += 1
            took.append(time.monotonic() - started)
            most = max(most, Held.of(pid).mib)
        return cls(float(np.quantile(took, 0.99)), len(took), failed, most)

    def __str__(self) -> str:
        return f"p99 {1000 * self.p99_s:.0f} ms of {self.calls} calls, {self.failed} failed, {self.most_mib} MiB"


@contextmanager
def attacking(kind: str, address: str, seconds: float) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, flooder.__file__, kind, address, str(seconds), str(CONNECTIONS)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture(scope="module")
def sink() -> Iterator[str]:
    with attacking("sink", "", 0) as process:
        assert process.stdout is not None
        yield f"127.0.0.1:{process.stdout.readline().strip()}"


@pytest.fixture
def flooded(graph_cache: Path, tmp_path: Path) -> Iterator[DaemonProcess]:
    process = DaemonProcess(copy_store(graph_cache, tmp_path / "store"), None)
    yield process
    process.stop()


@pytest.mark.faults
@pytest.mark.parametrize("kind", flooder.FLOODS)
def test_a_flood_of_frames(flooded: DaemonProcess, sink: str, kind: str) -> None:
    with ImageClient(flooded.address) as client:
        Beside.of(client, flooded.pid, 1)
        before, held = Beside.of(client, flooded.pid, SECONDS / 2), Held.of(flooded.pid)
        seen = {}
        for where, address in (("control", sink), ("flood", flooded.address)):
            with attacking(kind, address, SECONDS) as attacker:
                time.sleep(0.5)
                seen[where] = Beside.of(client, flooded.pid, SECONDS - 0.5)
                sent = json.loads(attacker.communicate()[0])
        time.sleep(AFTER_S)
        left, after = Held.of(flooded.pid), Beside.of(client, flooded.pid, SECONDS / 2)
    print(f"\n{kind}: {sent}\nbefore {before}\ncontrol {seen['control']}\nflood {seen['flood']}\nafter {after}")
    print(f"{held}\n{left}")
    assert sent["pieces"] > 100
    assert seen["flood"].failed == 0
    assert seen["flood"].p99_s < P99_OF_S.get(kind, P99_S)
    assert seen["flood"].most_mib - held.mib < MIB_OF.get(kind, MIB)
    assert after.failed == 0
    assert after.p99_s < 10 * before.p99_s + 0.1
    assert left.files <= held.files + 4


def connections(address: str, most: int, words: bytes) -> Iterator[socket.socket]:
    host, _, port = address.rpartition(":")
    for _ in range(most):
        made = socket.create_connection((host, int(port)), 5, source_address=(flooder.ANOTHER_HOST, 0))
        made.setblocking(False)
        made.send(words)
        yield made


GREETINGS = {
    "silent": b"",
    "half a greeting": flooder.PREFACE[:10],
    "half a handshake of TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "greeted": flooder.PREFACE + flooder.frame(flooder.SETTINGS),
    "half a frame": flooder.PREFACE + flooder.frame(flooder.SETTINGS) + flooder.OPEN[:20],
}


@pytest.mark.faults
@pytest.mark.parametrize("greeting", GREETINGS)
def test_ten_thousand_connections(flooded: DaemonProcess, greeting: str) -> None:
    """As many as the limit of open files lets this process have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = min(10_000, hard - 500)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        with ImageClient(flooded.address) as client, ExitStack() as stack:
            Beside.of(client, flooded.pid, 1)
            before, held = Beside.of(client, flooded.pid, 3), Held.of(flooded.pid)
            greeted = connections(flooded.address, most, GREETINGS[greeting])
            opened = [stack.enter_context(made) for made in greeted]
            during, there = Beside.of(client, flooded.pid, 5), Held.of(flooded.pid)
            with ImageClient(flooded.address) as other:
                started = time.monotonic()
                assert other.get(IDS, timeout_s=20).ok.all(), "a new caller is served too"
                new_s = time.monotonic() - started
            stack.close()
            time.sleep(AFTER_S)
            after, left = Beside.of(client, flooded.pid, 3), Held.of(flooded.pid)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    print(f"\n{len(opened)} {greeting}\nbefore {before}\nduring {during}; a new caller: {new_s:.2f} s\nafter {after}")
    print(f"{held}\n{there}\n{left}")
    assert (before.failed, during.failed, after.failed) == (0, 0, 0)
    assert during.p99_s < 0.5
    assert there.mib - held.mib < 0.1 * len(opened)
    assert left.files <= held.files + 4
