"""Load as it comes from outside: requests at times that were drawn before, whether or not earlier ones are answered.

The time of a request runs from when it was due, not from when it was sent: a server that stands still for a second is
seen by all requests of that second (Tene, "How NOT to Measure Latency": coordinated omission).
"""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np

Done = Callable[[str], None]  # told a request's code when it ended
Send = Callable[[int, Done], None]  # begins the request of a number, and returns


@dataclass
class Answers:
    """What became of requests.

    Attributes:
        due: seconds from the beginning at which each was due.
        took: seconds from then until its end.
        code: OK, or how it failed.
    """

    due: list[float] = field(default_factory=list)
    took: list[float] = field(default_factory=list)
    code: list[str] = field(default_factory=list)

    def ms(self, percent: float, code: str = "OK", between: tuple[float, float] = (0.0, float("inf"))) -> float:
        """A percentile of milliseconds of the requests that ended so, and were due then; nan: there were none."""
        found = [
            1e3 * took
            for due, took, ended in zip(self.due, self.took, self.code, strict=True)
            if ended == code and between[0] <= due < between[1]
        ]
        return float(np.percentile(found, percent)) if found else float("nan")

    def share(self, code: str = "OK") -> float:
        """Which part ended so."""
        return self.code.count(code) / max(1, len(self.code))


def poisson(send: Send, rate: float, seconds: float, seed: int = 0) -> Answers:
    """Requests that are due at random, so many a second.

    Args:
        send: begins a request.
        rate: requests a second.
        seconds: for which they come.
        seed: of the times.
    """
    gaps = np.random.default_rng(seed).exponential(1 / rate, int(rate * seconds))
    found, lock, left = Answers(), threading.Lock(), threading.Semaphore(0)
    started = time.perf_counter() + 0.05
    for number, due in enumerate(np.cumsum(gaps).tolist()):
        if (wait := started + due - time.perf_counter()) > 0:
            time.sleep(wait)

        def done(code: str, due: float = due) -> None:
            took = time.perf_counter() - started - due
            with lock:
                found.due.append(due)
                found.took.append(took)
                found.code.append(code)
            left.release()

        send(number, done)
    for _ in gaps:
        left.acquire(timeout=90)
    return found


def closed(send: Send, in_flight: int, seconds: float) -> float:
    """Answers a second when so many requests are always under way."""
    end, answered, lock = time.perf_counter() + seconds, [0], threading.Lock()
    idle = threading.Semaphore(0)

    def again(code: str, number: int) -> None:
        with lock:
            answered[0] += code == "OK"
        if time.perf_counter() < end:
            send(number + in_flight, lambda code: again(code, number + in_flight))
        else:
            idle.release()

    started = time.perf_counter()
    for number in range(in_flight):
        send(number, lambda code, number=number: again(code, number))  # type: ignore[misc]
    for _ in range(in_flight):
        idle.acquire()
    return answered[0] / (time.perf_counter() - started)


def by_grpc(server: str | grpc.Channel, path: str, messages: Sequence[bytes], timeout_s: float = 30.0) -> Send:
    """Requests of a method by gRPC, over one connection to an address, or over a channel."""
    ask: Any = (grpc.insecure_channel(server) if isinstance(server, str) else server).unary_unary(path)

    def send(number: int, done: Done) -> None:
        call = ask.future(messages[number % len(messages)], timeout=timeout_s)
        call.add_done_callback(lambda ended: done(ended.code().name))

    return send


def by_http(port: int, path: str, bodies: Sequence[bytes], connections: int = 32) -> Send:
    """Requests by HTTP, over connections that stay open; those beyond wait for one."""
    local, pool = threading.local(), ThreadPoolExecutor(connections)

    def ask(number: int, done: Done) -> None:
        try:
            if not hasattr(local, "connection"):
                local.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            head = {"Content-Type": "application/json"}
            local.connection.request("POST", path, bodies[number % len(bodies)], head)
            reply = local.connection.getresponse()
            json.loads(reply.read())
            done("OK" if reply.status == 200 else str(reply.status))
        except (OSError, http.client.HTTPException, ValueError) as error:
            local.__dict__.pop("connection", None)
            done(type(error).__name__)

    def send(number: int, done: Done) -> None:
        pool.submit(ask, number, done)

    return send
