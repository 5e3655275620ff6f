"""Popular images, as logs have them: our client with a cache beside ours without, an oracle, and Arrow Flight.

Zipf 1.05 over all images, drawn exactly and anew for each request, each id asked for once a request by every client.
The cache has 10 % of the images' room, and has seen 1,000 requests of 10,000 ids before the first round.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from benchmarks.parts import Part, Taken, Work, as_dict, run_rounds, show
from crossmedia.imgserver.client.ids import deduplicated, in_place

Ids = npt.NDArray[np.int64]
EXPONENT, SHARE = 1.05, 0.1
WARM_UP, WARM_UP_IDS = 1_000, 10_000
IN_FLIGHT, DIM = 4, 64


@dataclass(frozen=True)
class Draws:
    """Requests of ids below ``n``, other ones in each round, and the same for each client.

    Attributes:
        n: images.
        size: ids of a request.
        count: requests of a round.
        uniform: whether all are asked for alike.
        rounds: how many rounds there may be.
        warm_up: requests of the first round, which is not measured.
    """

    n: int
    size: int
    count: int
    uniform: bool
    rounds: int
    warm_up: int = WARM_UP

    @property
    def popular(self) -> Ids:
        """All ids, the most popular first; those are not neighbours."""
        return np.random.default_rng(7).permutation(self.n)

    def drawn(self) -> Iterator[list[Ids]]:
        """The warm-up, then round after round."""
        rng, popular = np.random.default_rng(1), self.popular
        shares = np.cumsum(np.ones(self.n) if self.uniform else np.arange(1, self.n + 1) ** -EXPONENT)
        shares /= shares[-1]
        sizes = [(self.warm_up, WARM_UP_IDS), *[(self.count, self.size)] * self.rounds]

        def request(size: int) -> Ids:
            drawn = np.sort(rng.random(size))  # in order they are found in a tenth of the time
            ids: Ids = popular[rng.permutation(np.searchsorted(shares, drawn).clip(0, self.n - 1))]
            return ids

        return iter([[request(size) for _ in range(count)] for count, size in sizes])


class Told:
    """The work of rounds, and running totals that were counted on the way."""

    def __init__(self, draws: Draws, client: Any, get: Any):
        self._draws, self._rounds, self._client, self._get = draws, draws.drawn(), client, get
        self._pool = ThreadPoolExecutor(IN_FLIGHT)
        self.told: dict[str, float] = {}

    def __call__(self) -> int:
        """Ask for the requests of the next round, four gets at a time."""
        before = self._client.stats
        unique, cached, received = before.unique, before.cached, before.bytes_received
        todo = next(self._rounds)
        if len(todo) == self._draws.warm_up and self._client.cache is None:
            todo = todo[-IN_FLIGHT:]  # what keeps nothing is warm soon
        done = sum(len(values) for values in self._pool.map(self._get, todo))
        now = self._client.stats
        self.told = {
            "missed": now.unique - unique - (now.cached - cached),
            "unique": now.unique - unique,
            "bytes": now.bytes_received - received,
        }
        return done


def ours(address: str, draws: Draws, cached: bool) -> Work:
    """Our client, four gets at a time; with a cache for a tenth of the images, or without."""
    from crossmedia.allocator import keep_freed_memory
    from crossmedia.imgserver.client import ImageClient
    from crossmedia.imgserver.client.cached_rows import BESIDE_A_ROW

    keep_freed_memory()
    size = int(SHARE * draws.n) * (2 * DIM + BESIDE_A_ROW) if cached else 0
    client = ImageClient(address, cache_bytes=size)
    return Told(draws, client, client.get)


def oracle(address: str, draws: Draws) -> Work:
    """Our client behind the most popular tenth, known from the start: no cache of that size misses less."""
    from crossmedia.allocator import keep_freed_memory
    from crossmedia.imgserver.client import ImageClient

    keep_freed_memory()
    client, held = ImageClient(address), draws.popular[: int(SHARE * draws.n)]
    place = np.full(draws.n, -1)
    place[held] = np.arange(len(held))
    rows = client.get(held).values

    def get(ids: Ids) -> npt.NDArray[Any]:
        unique, back = deduplicated(ids)
        at = place[unique]
        values, absent = np.take(rows, at, axis=0, mode="clip"), np.flatnonzero(at < 0)
        values[absent] = client.get(unique[absent]).values
        client.count(unique=len(unique) - len(absent), cached=len(unique) - len(absent))
        return values if back is None else in_place(values, back, 0)

    return Told(draws, client, get)


def flight(port: int, draws: Draws) -> Work:
    """One exchange of Arrow Flight, four requests ahead of the replies, ids de-duplicated as ours are."""
    import pyarrow.flight as library

    client = library.FlightClient(f"grpc://127.0.0.1:{port}")
    writer, reader = client.do_exchange(library.FlightDescriptor.for_path("vectors"))
    writer.begin(pa.schema([("id", pa.int64())]))
    rounds = draws.drawn()

    def receive(back: Ids | None) -> int:
        block = reader.read_chunk().data.column(0)
        values = np.frombuffer(block.buffers()[1], np.float16).reshape(-1, DIM)
        return len(values if back is None else in_place(values, back, 0))

    def work() -> int:
        flying, done, todo = deque[Any](), 0, next(rounds)
        for ids in todo[-IN_FLIGHT:] if len(todo) == draws.warm_up else todo:
            unique, back = deduplicated(ids)
            writer.write_batch(pa.record_batch([pa.array(unique)], names=["id"]))
            flying.append(back)
            if len(flying) == IN_FLIGHT:
                done += receive(flying.popleft())
        return done + sum(receive(back) for back in flying)

    return work


def summed(taken: Taken, name: str) -> float:
    """A running total over all measured rounds."""
    return sum(told[name] for told in taken.told)


def popular_images(
    n: int, address: str, pids: list[int], peer: tuple[int, list[int]], rounds: int
) -> tuple[dict[str, float], dict[str, Any]]:
    """Run and show the tables; return what is compared, and the figures, by names of the line of JSON.

    Args:
        n: images.
        address: of our server.
        pids: its process.
        peer: port and process of Arrow Flight's.
        rounds: of each table.
    """
    ratios: dict[str, float] = {}
    found: dict[str, Any] = {}
    for uniform, size in ((False, 10_000), (False, 1_000), (True, 10_000), (True, 1_000)):
        draws = Draws(n, size, 500_000 // size, uniform, rounds, WARM_UP * n // 1_000_000)
        parts = {
            "ours": Part(ours, address, draws, False, servers=pids),
            "ours, cached": Part(ours, address, draws, True, servers=pids),
        }
        if not uniform:
            parts["oracle"] = Part(oracle, address, draws, servers=pids)
            parts["Arrow Flight"] = Part(flight, peer[0], draws, servers=peer[1])
        taken = run_rounds(parts, rounds)
        for part in parts.values():
            part.close()
        title = f"{size:,} ids a request, {'uniform' if uniform else f'Zipf {EXPONENT}'}, each once, drawn anew"
        show(title, taken, "M vectors/s", 1e6)
        for name in ("ours", "ours, cached", "oracle"):
            if name in taken:
                missed, unique = (summed(taken[name], what) for what in ("missed", "unique"))
                print(f"{name}: {missed / unique:.3f} of {unique / rounds / draws.count:,.0f} unique ids were fetched")
        tail = "" if size == 10_000 else f"_{size}"
        found[f"cached_{'uniform' if uniform else 'zipf'}{tail}"] = {
            name: as_dict(part) for name, part in taken.items()
        }
        ratios |= _compared(taken, tail, uniform=uniform)
    return ratios, found


def _compared(taken: dict[str, Taken], tail: str, *, uniform: bool) -> dict[str, float]:
    """What is compared, by its name in the line of JSON."""
    cached, plain = taken["ours, cached"], taken["ours"]
    if uniform:
        return {f"cached_uniform{tail}": cached.rate / plain.rate}
    return {
        f"flight_zipf_cached{tail}": cached.rate / taken["Arrow Flight"].rate,
        f"zipf_cached{tail}": cached.rate / plain.rate,
        f"bytes_zipf_cached{tail}": summed(cached, "bytes") / summed(plain, "bytes"),
        f"misses_oracle{tail}": summed(cached, "missed") / summed(taken["oracle"], "missed"),
    }
