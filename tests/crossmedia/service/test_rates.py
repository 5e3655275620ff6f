"""Images that one client may ask for in a second."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

import numpy as np
import pytest
from conftest import DaemonProcess, run_command
from secured import Credentials, private

from crossmedia.errors import (
    Overloaded,
)
from crossmedia.imgserver.client import ClientSecurity, GrpcTransport, ImageClient
from crossmedia.service.rates import RateLimit
from crossmedia.v1 import image_server_pb2 as pb


def test_a_client_is_limited_and_another_is_not(
    start_daemon: Callable[..., DaemonProcess], credentials: Credentials
) -> None:
    tokens = private(credentials["tokens"], f"busy read {'b' * 32}\nquiet read {'q' * 32}\n")
    daemon = start_daemon(f"--tokens={tokens}", "--max-ids-per-second=50")

    def security(letter: str) -> ClientSecurity:
        return ClientSecurity(token_file=str(private(credentials[letter], letter * 32)))

    ids = np.arange(90, dtype="<i8").tobytes()
    busy, quiet = (GrpcTransport(daemon.address, security(letter)) for letter in "bq")
    busy.get_vectors(pb.GetVectorsRequest(image_ids=ids), 5).result()
    with pytest.raises(Overloaded, match="busy has asked for more than 50 ids a second") as caught:
        busy.get_vectors(pb.GetVectorsRequest(image_ids=ids[:8]), 5).result()
    assert 0.2 < caught.value.retry_after_s < 2
    assert quiet.get_vectors(pb.GetVectorsRequest(image_ids=ids[:80]), 5).result().values.shape == (10, 16)
    time.sleep(caught.value.retry_after_s + 0.1)
    busy.get_vectors(pb.GetVectorsRequest(image_ids=ids), 5).result()
    # ImageClient waits as it is told, and has what it asked for.
    started = time.monotonic()
    with ImageClient(daemon.address, timeout_s=20, security=security("b")) as client:
        assert client.get(list(range(30))).ok.all()
    assert time.monotonic() - started > 0.5
    assert "health" in run_command("imgserver", "health", f"--server={daemon.address}").stdout
    for transport in (busy, quiet):
        transport.close()


def test_without_tokens_a_host_is_a_client(start_daemon: Callable[..., DaemonProcess]) -> None:
    daemon = start_daemon("--max-ids-per-second=20")
    request = pb.GetVectorsRequest(image_ids=np.arange(40, dtype="<i8").tobytes())
    first, second = GrpcTransport(daemon.address), GrpcTransport(f"localhost:{daemon.address.rpartition(':')[2]}")
    first.get_vectors(request, 5).result()
    with pytest.raises(Overloaded, match=r"^127\.0\.0\.1 has asked"):  # another port of the same host
        second.get_vectors(request, 5).result()
    first.close()
    second.close()


def test_the_rate_holds_on_the_average(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("crossmedia.service.rates.time.monotonic", lambda: now[0])
    limit, taken = RateLimit(100), 0
    for _ in range(100_000):
        now[0] += 0.001
        with contextlib.suppress(Overloaded):
            limit.take("a", 7)
            taken += 7
    assert abs(taken - 100 * 100 - 100) <= 14  # the rate, and the second's worth that was there at first
    now[0] += 3600
    limit.take("a", 10**6)  # a call of any size goes through,
    with pytest.raises(Overloaded) as caught:
        limit.take("a", 1)  # and is paid for
    assert caught.value.retry_after_s == pytest.approx(9999.01)
    limit.take("b", 1)
