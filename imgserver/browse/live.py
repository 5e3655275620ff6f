"""What the server did in the last minutes: how much it answered from its table, what waits, how long lookups took."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from starlette.requests import Request
from starlette.responses import Response

from crossmedia.errors import CrossMediaError
from crossmedia.imgserver.browse.looks import Looks
from crossmedia.imgserver.browse.site import Pages, Tab
from crossmedia.imgserver.client import ServerInfo
from crossmedia.imgserver.client.server_info import Durations

EVERY_S, KEPT_S = 2.0, 600.0
WIDTH, HEIGHT = 560, 110
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Moment:
    """What the server had counted at a time, on the monotonic clock."""

    at: float
    info: ServerInfo


@dataclass(frozen=True)
class Chart:
    """A line over the last minutes.

    Attributes:
        title: what it shows.
        now: the number to tell, in words: over the last minutes, or the latest.
        most: of the vertical axis, in words.
        path: of an SVG of ``WIDTH`` by ``HEIGHT``; empty: there is nothing to see yet.
        alt: the line in words.
    """

    title: str
    now: str
    most: str
    path: str
    alt: str


class Live:
    """Follows a server, from the first look at the page on.

    Args:
        pages: draws the page.
        looks: asks the server.
    """

    def __init__(self, pages: Pages, looks: Looks):
        self._pages, self._looks = pages, looks
        self._moments: deque[Moment] = deque(maxlen=int(KEPT_S / EVERY_S))
        self._trouble = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="follow-server", daemon=True)

    def start(self) -> None:
        """Begin to follow."""
        self._thread.start()

    def stop(self) -> None:
        """End it."""
        self._stop.set()
        self._thread.join()

    @property
    def tab(self) -> Tab:
        """Its place in the site."""
        return Tab("/live", "Live", {"/live": self.page, "/live/now": self.now})

    def _follow(self) -> None:
        while not self._stop.is_set():
            try:
                self._moments.append(Moment(time.monotonic(), self._looks.client.info(timeout_s=EVERY_S)))
                self._trouble = ""
            except CrossMediaError as error:
                self._trouble = str(error)
            self._stop.wait(EVERY_S)

    def page(self, request: Request) -> Response:
        """The whole page."""
        return self._drawn("live.html", request)

    def now(self, request: Request) -> Response:
        """What of it changes."""
        return self._drawn("live_now.html", request)

    def _drawn(self, name: str, request: Request) -> Response:
        moments = list(self._moments)
        since = moments[-1].at - moments[0].at if moments else 0.0
        info = moments[-1].info if moments else None
        facts: dict[str, Any] = {
            "trouble": self._trouble,
            "info": info,
            "charts": charts(moments),
            "minutes": since / 60,
        }
        return self._pages.page(name, request, width=WIDTH, height=HEIGHT, every_s=EVERY_S, **facts)


def charts(moments: Sequence[Moment]) -> list[Chart]:
    """What is drawn of some moments; of fewer than two, nothing can be."""
    if len(moments) < 2:
        return []
    at = np.array([moment.at for moment in moments])
    steps = np.maximum(np.diff(at), 1e-3)

    def counted(name: str) -> Floats:
        return np.array([getattr(moment.info.counters, name) for moment in moments], dtype=np.float64)

    asked, there = np.diff(counted("ids_requested")), np.diff(counted("ids_from_table"))
    restarted = (asked < 0) | (there < 0)  # counts begin at 0 again
    asked[restarted], there[restarted] = 0, 0
    hits = np.where(asked > 0, there / np.maximum(asked, 1), np.nan)
    lookups = [_between(one.info.durations, two.info.durations) for one, two in pairwise(moments)]
    every = reduce(Durations.plus, lookups)
    medians, tails = (np.array([quantile(one, share) for one in lookups]) for share in (0.5, 0.95))
    ratio = there.sum() / asked.sum() if asked.sum() else np.nan
    rate, waiting = asked / steps, counted("images_pending")[1:]
    when = at[1:] - at[-1]
    return [
        _chart("Ids answered from the table", ratio, when, hits, "{:.1%}".format, 1.0),
        _chart("Half of the lookups took at most", quantile(every, 0.5), when, medians, _time),
        _chart("95 % of the lookups took at most", quantile(every, 0.95), when, tails, _time),
        _chart("Images waiting for the CNN now", waiting[-1], when, waiting, "{:,.0f}".format),
        _chart("Ids asked for in a second, now", rate[-1], when, rate, "{:,.0f}".format),
    ]


def _time(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def _between(before: Durations, after: Durations) -> Durations:
    """The calls that ended between two moments."""
    if before.lookup_seconds != after.lookup_seconds:
        return after if not before.lookup_calls else Durations()
    calls = tuple(max(0, b - a) for a, b in zip(before.lookup_calls, after.lookup_calls, strict=True))
    return Durations(after.lookup_seconds, calls)


def quantile(durations: Durations, share: float) -> float:
    """Seconds within which a share of calls ended: the bound of the group that holds it; nan without calls."""
    total = sum(durations.lookup_calls)
    if not total:
        return float("nan")
    place = int(np.searchsorted(np.cumsum(durations.lookup_calls), share * total))
    return durations.lookup_seconds[min(place, len(durations.lookup_seconds) - 1)]


def _chart(
    title: str, told: float, when: Floats, values: Floats, words: Callable[[float], str], most: float = 0.0
) -> Chart:
    """A line over the last minutes.

    Args:
        title: what it shows.
        told: the one number to tell of it; nan: there is none.
        when: seconds before now, shape (n,), negative.
        values: shape (n,); nan: there is none.
        words: a value, for people.
        most: of the vertical axis; 0: the largest value.
    """
    there = np.isfinite(values)
    now = words(told) if np.isfinite(told) else "nobody asked"
    if not there.any():
        return Chart(title, now, "", "", f"{title}: {now}")
    top = most or float(values[there].max()) or 1.0
    x = WIDTH * (1 + when / KEPT_S)
    y = HEIGHT - 4 - (HEIGHT - 8) * np.nan_to_num(values) / top
    path, drawing = [], False
    for place in range(len(values)):
        if there[place]:  # a value alone is a dot: a line without length, with round ends
            path.append(f"{'L' if drawing else 'M'}{x[place]:.1f} {y[place]:.1f}{'' if drawing else 'h0'}")
        drawing = bool(there[place])
    low, high = words(float(values[there].min())), words(float(values[there].max()))
    return Chart(title, now, words(top), " ".join(path), f"{title}: {now}; from {low} to {high} in the last minutes")
