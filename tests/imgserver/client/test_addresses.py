"""Addresses: how they are written, IPv6 on both sides, and proxies, which are never asked for this machine."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest
from conftest import DaemonProcess, run_command

from crossmedia.errors import BadInput, ServerUnavailable
from crossmedia.hosts import host_and_port, is_this_machine, keep_loopback_from_proxies, proxy_for, written
from crossmedia.imgserver.client import ImageClient
from crossmedia.imgserver.client.addresses import NO_PROXY, channel_target, proxy_said, stays_here
from crossmedia.imgserver.client.security import ClientSecurity, open_channel
from crossmedia.service.ports import check_free

VARIABLES = ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy")
EVERY_VARIABLE = (*VARIABLES, *(name.upper() for name in VARIABLES), "no_proxy", "NO_PROXY", "no_grpc_proxy")
HAS_IPV6 = socket.has_ipv6 and Path("/proc/net/if_inet6").exists() and " lo\n" in Path("/proc/net/if_inet6").read_text()
needs_ipv6 = pytest.mark.skipif(not HAS_IPV6, reason="this machine has no IPv6")


class Proxy:
    """Takes connections, remembers what it was asked first, and hangs up."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                self.asked.append(connection.recv(100))

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """One that the environment names in every way there is."""
    opened = Proxy()
    for name in EVERY_VARIABLE:
        monkeypatch.delenv(name, raising=False)
    for name in (*VARIABLES, *(name.upper() for name in VARIABLES)):
        monkeypatch.setenv(name, f"http://user:secret@{opened.address}")
    yield opened
    opened.close()


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("localhost:7070", "localhost", 7070),
        ("10.0.0.1:1", "10.0.0.1", 1),
        ("[::1]:7070", "::1", 7070),
        (" [fd00::5%eth0]:65535 ", "fd00::5%eth0", 65535),
    ],
)
def test_an_address_is_read_as_it_is_written(text: str, host: str, port: int) -> None:
    assert host_and_port(text) == (host, port)
    assert written(host, port) == text.strip()


@pytest.mark.parametrize(
    "text", ["localhost", "", ":7070", "::1", "::1:7070", "http://localhost:7070", "a:b", "a:70700", "[a]:1", "a b:1"]
)
def test_what_is_no_address_is_refused_before_it_is_guessed_at(text: str) -> None:
    with pytest.raises(BadInput, match="must be host:port"):
        channel_target(text)
    with pytest.raises(BadInput, match="must be host:port"), ImageClient(text, timeout_s=1) as client:
        client.info()


@pytest.mark.parametrize(
    ("address", "example"),
    [
        ("::1", "[::1]:7070"),
        ("[::1]", "[::1]:7070"),
        ("::1:7071", "[::1]:7071"),
        ("2001:db8::5:7071", "[2001:db8::5]:7071"),
        ("1:2:3:4:5:6:7:8:9000", "[1:2:3:4:5:6:7:8]:9000"),
    ],
)
def test_an_ipv6_address_without_brackets_is_told_how(address: str, example: str) -> None:
    with pytest.raises(BadInput) as refused:
        channel_target(address)
    assert f"brackets: {example}." in str(refused.value)


@pytest.mark.parametrize(
    ("address", "target"),
    [
        ("127.0.0.1:1, 127.0.0.2:2", "ipv4:127.0.0.1:1,127.0.0.2:2"),
        ("[::1]:1,[::1]:2", "ipv6:[::1]:1,[::1]:2"),
        ("127.0.0.1:1,[::1]:2", "ipv6:[::ffff:127.0.0.1]:1,[::1]:2"),
    ],
)
def test_lists_of_both_kinds_of_addresses(address: str, target: str) -> None:
    found, options = channel_target(address)
    assert found == target
    assert NO_PROXY in options


@pytest.mark.parametrize(
    "address",
    [
        *("localhost:1", "LOCALHOST:1", "127.8.9.1:1", "[::1]:1", "0.0.0.0:1", "[::]:1", "[::ffff:127.0.0.1]:1"),
        *("dns:///localhost:1", "dns:localhost:1", "ipv4:127.0.0.1:1", "ipv6:[::1]:1", "ipv6:%5B::1%5D:1"),
        *("unix:/run/s", "unix-abstract:s", "localhost:1,[::1]:2", "10.0.0.1:1,10.0.0.2:2", "a.localhost:1"),
        f"{socket.gethostname()}:1",
    ],
)
def test_no_proxy_is_asked_for_this_machine_or_a_list(proxy: Proxy, address: str) -> None:
    import grpc

    with open_channel(address, ClientSecurity()) as channel:
        ask: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/a/b")
        with pytest.raises(grpc.RpcError):
            ask(b"", timeout=2)
        assert proxy_said(address) == ""
    assert proxy.asked == []


@pytest.mark.parametrize("variable", ["http_proxy", "https_proxy", "grpc_proxy"])
def test_a_proxy_that_was_asked_is_named_without_its_password(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    for name in EVERY_VARIABLE:
        if name != variable:
            monkeypatch.delenv(name, raising=False)
    with ImageClient("images.example:7070", timeout_s=0.5) as client, pytest.raises(ServerUnavailable) as failed:
        client.info()
    assert proxy.asked[0].startswith(b"CONNECT images.example:7070")
    assert f"through the proxy {proxy.address} ({variable})" in str(failed.value)
    assert "no_proxy=images.example" in str(failed.value)
    assert "secret" not in str(failed.value)
    monkeypatch.setenv("no_proxy", ".example")
    assert proxy_for("images.example") == ""
    monkeypatch.setenv("no_proxy", "10.0.0.0/8, other")
    assert proxy_for("10.1.2.3") == ""
    assert proxy_for("11.1.2.3")


def test_proxies_that_nobody_asks_are_not_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in EVERY_VARIABLE:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ALL_PROXY", "http://proxy:1")
    monkeypatch.setenv("http_proxy", "socks5://proxy:1")
    assert proxy_for("images.example") == ""


def test_a_daemon_is_reached_whatever_proxy_there_is(proxy: Proxy, daemon: DaemonProcess) -> None:
    port = daemon.address.rpartition(":")[2]
    for address in (daemon.address, f"localhost:{port}", f"127.0.0.1:{port},localhost:{port}"):
        with ImageClient(address, timeout_s=10) as client:
            assert client.get([1, 2]).ok.all()
    run_command("imgserver", "health", f"--server={daemon.address}")
    assert proxy.asked == []


def test_commands_keep_every_library_from_asking_for_this_machine(proxy: Proxy) -> None:
    """Photos behind a URL of this machine, traces, and what else reads no_proxy."""
    os.environ["NO_PROXY"] = "mine.example"
    keep_loopback_from_proxies()
    for name in ("no_proxy", "NO_PROXY"):
        assert os.environ[name] == "mine.example,localhost,127.0.0.1,[::1]"
    keep_loopback_from_proxies()
    assert os.environ["no_proxy"].count("localhost") == 1
    with socket.create_server(("127.0.0.1", 0)) as web:

        def answer() -> None:
            connection, _ = web.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"HTTP/1.0 200 OK\r\n\r\nfine")

        threading.Thread(target=answer, daemon=True).start()
        with urlopen(f"http://localhost:{web.getsockname()[1]}/", timeout=5) as reply:
            assert reply.read() == b"fine"
    assert proxy.asked == []


def test_without_a_proxy_the_environment_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in EVERY_VARIABLE:
        monkeypatch.delenv(name, raising=False)
    keep_loopback_from_proxies()
    assert "no_proxy" not in os.environ


@pytest.mark.parametrize("host", ["images", "10.0.0.1", "fd00::1", "localhost.example"])
def test_other_hosts_are_others(host: str) -> None:
    assert not is_this_machine(host)
    assert not stays_here(written(host, 1))


@needs_ipv6
@pytest.mark.parametrize("host", ["::1", "[::1]", "::"])
def test_a_server_listens_at_ipv6(store: Path, host: str) -> None:
    process = DaemonProcess(store, None, f"--host={host}", "--metrics-port=0")
    try:
        assert process.address.startswith("[::1]:")
        for address in (process.address, f"{process.address},{process.address}"):
            with ImageClient(address, timeout_s=10) as client:
                assert client.get([1]).ok.all()
        run_command("imgserver", "health", f"--store={store}")
        port = json.loads((store / "daemon.json").read_text())["metrics_port"]
        with urlopen(f"http://[::1]:{port}/metrics", timeout=10) as reply:
            assert b"crossmedia_" in reply.read()
        if host == "::":
            with ImageClient(process.address.replace("[::1]", "127.0.0.1"), timeout_s=10) as client:
                assert client.get([1]).ok.all(), "all addresses are those of IPv4 too"
    finally:
        process.stop()


@needs_ipv6
def test_a_port_that_is_taken_at_ipv6_is_said() -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BadInput, match=rf"\[::1\]:{port} cannot be bound: the port is taken"):
            check_free("::1", port)


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("203.0.113.7", "the host is not of this machine"),
        ("nowhere.invalid", "the host is not known"),
        ("2001:db8::7", "the host is not of this machine|no IPv6"),
    ],
)
def test_why_an_address_cannot_be_bound(host: str, reason: str) -> None:
    with pytest.raises(BadInput, match=reason):
        check_free(host, 0)


@pytest.mark.parametrize("host", ["localhost:7070", "http://localhost", "", "a b"])
def test_what_is_no_host_is_refused(store: Path, host: str) -> None:
    done = run_command("imgserver", "serve", f"--store={store}", f"--host={host}", check=False)
    assert done.returncode == 2
    assert "--host" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_ipv6_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel without it: what it answers there is put in the place of binding."""
    code = """
import errno, socket
from crossmedia.service import ports
ports._failure = lambda family, at: OSError(errno.EADDRNOTAVAIL, "no") if family == socket.AF_INET6 else None
ports.check_free("::1", 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "this machine has no IPv6" in done.stderr
