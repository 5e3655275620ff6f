"""How far a command is, on standard error: a bar on a terminal, elsewhere a line now and then. Results go elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

EVERY_S = 10.0  # between lines


class Bar:
    """Tells how far work is, while it is entered; what is called ``done`` counts, or is bytes.

    Args:
        what: is done, in a word or two.
        total: of it; None: nobody knows yet.
        of_bytes: whether bytes are counted.
        left: whether the rate so far says how long the rest takes.
        shown: without it nothing is told but what is said by ``say``.
    """

    def __init__(
        self, what: str, total: int | None = None, *, of_bytes: bool = False, left: bool = True, shown: bool = True
    ):
        from rich import progress
        from rich.console import Console

        self._console = Console(stderr=True)
        columns: list[progress.ProgressColumn] = [
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.DownloadColumn() if of_bytes else progress.MofNCompleteColumn(),
            progress.TimeElapsedColumn(),
        ]
        if left:
            columns.append(progress.TimeRemainingColumn())
        drawn = shown and self._console.is_terminal
        self._bar = progress.Progress(*columns, console=self._console, transient=True, disable=not drawn)
        self._task = self._bar.add_task(what, total=total)
        self._lines, self._of_bytes, self._left = shown and not drawn, of_bytes, left
        self._what, self._done, self._total = what, 0, total
        self._began = self._told = time.monotonic()

    def __enter__(self) -> Bar:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def say(self, text: str) -> None:
        """A line of its own, above the bar."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def advance(self, done: int) -> None:
        """So much more is done."""
        self(self._done + done, self._total)

    def __call__(self, done: int, total: int | None, what: str = "") -> None:
        """So much is done of so much; ``what`` says it in other words from now on."""
        self._done, self._total, self._what = done, total, what or self._what
        self._bar.update(self._task, completed=done, total=total, description=self._what)
        if self._lines and time.monotonic() - self._told >= EVERY_S:
            self._told = time.monotonic()
            self.say(self._line())

    def _line(self) -> str:
        if self._total is None:
            return f"{self._what}: {self._amount(self._done)} so far"
        rest_s = (time.monotonic() - self._began) * (self._total - self._done) / max(1, self._done)
        rest = f", about {duration(rest_s)} left" if self._left and 0 < self._done < self._total else ""
        return f"{self._what}: {self._amount(self._done)} of {self._amount(self._total)}{rest}"

    def _amount(self, count: int) -> str:
        return f"{count / 1e6:,.0f} MB" if self._of_bytes else f"{count:,}"


def duration(seconds: float) -> str:
    """Roughly how long something takes: ``40 s``, ``3 min``, ``2.5 h``."""
    if seconds < 95:
        return f"{max(1, round(seconds / 10)) * 10} s"
    return f"{seconds / 60:.0f} min" if seconds < 95 * 60 else f"{seconds / 3600:.1f} h"
