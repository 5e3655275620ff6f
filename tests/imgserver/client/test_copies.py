"""Copies of a server behind one address: calls go round, and one that dies is not noticed."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import DaemonProcess, copy_store, name_server

from crossmedia.errors import BadInput, ServerUnavailable
from crossmedia.imgserver.client import ImageClient
from crossmedia.imgserver.client.addresses import NO_PROXY, channel_target

IDS = np.arange(100)


@pytest.fixture
def start(graph_cache: Path, tmp_path: Path) -> Iterator[Callable[..., DaemonProcess]]:
    """Starts a copy of the server; several, each with a store of its own."""
    started: list[DaemonProcess] = []

    def start_one(*options: str) -> DaemonProcess:
        store = tmp_path / f"store{len(started)}"
        started.append(DaemonProcess(copy_store(graph_cache, store), None, *options))
        return started[-1]

    yield start_one
    for process in started:
        process.stop()


def requested(address: str) -> int:
    """Ids that a server was asked for since it started."""
    with ImageClient(address) as client:
        return client.info().counters.ids_requested


def get_until(client: ImageClient, done: Callable[[], bool]) -> None:
    """Ask and ask, at most for 20 seconds; a call that fails fails the test."""
    deadline = time.monotonic() + 20
    while not done():
        assert time.monotonic() < deadline
        assert client.get(IDS).ok.all()
        time.sleep(0.01)


def test_a_copy_that_is_killed_is_not_noticed_and_is_used_again(
    start: Callable[..., DaemonProcess], tmp_path: Path
) -> None:
    one, other = start(), start()
    with ImageClient(f"{one.address}, {other.address}") as client:
        get_until(client, lambda: requested(one.address) > 300 and requested(other.address) > 300)
        os.kill(other.pid, signal.SIGKILL)
        before = requested(one.address)
        for _ in range(20):
            assert client.get(IDS).ok.all()
        assert requested(one.address) - before == 20 * len(IDS)
        again = DaemonProcess(other.store, None, f"--port={other.address.rpartition(':')[2]}")
        try:
            get_until(client, lambda: requested(again.address) > 300)
        finally:
            again.stop()


def test_calls_go_round_the_addresses_of_a_name(start: Callable[..., DaemonProcess], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.2", 0)) as same:
        port = same.getsockname()[1]
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.2 copies.test\n127.0.0.3 copies.test\n")
    with name_server(hosts) as (dns, _):
        copies = [start(f"--host={host}", f"--port={port}") for host in ("127.0.0.2", "127.0.0.3")]
        with ImageClient(f"dns://127.0.0.1:{dns}/copies.test:{port}") as client:
            get_until(client, lambda: all(requested(copy.address) > 300 for copy in copies))


@pytest.mark.parametrize("address", ["localhost:1,localhost", "a:b,localhost:1"])
def test_a_list_with_an_address_without_a_port_is_refused(address: str) -> None:
    with pytest.raises(BadInput, match="must be host:port"):
        channel_target(address)


def test_a_list_with_an_unknown_host_says_which() -> None:
    with pytest.raises(ServerUnavailable, match=r"nowhere\.invalid:7070 is not known"):
        channel_target("127.0.0.1:7070,nowhere.invalid:7070")


@pytest.mark.parametrize("address", ["localhost:7070", "unix:/run/crossmedia.sock"])
def test_one_server_is_asked_whatever_its_health(address: str) -> None:
    assert channel_target(address) == (address, [NO_PROXY])
