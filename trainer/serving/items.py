"""Items that are read again when their file changes, aside, so that no request waits for it."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from types import TracebackType

from crossmedia.errors import BadInput
from crossmedia.secret_files import Followed
from crossmedia.trainer.serving.models import Models

log = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0


class FollowedItems:
    """Gives models the items of a file whenever it changes; a broken change is logged, and the former items stay.

    Args:
        path: of a Parquet file.
        models: that are served.
    """

    def __init__(self, path: Path, models: Models):
        self._path, self._models = path, models
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="items", daemon=True)
        self._followed = Followed(f"the items {path}", [path], self._load)

    def _load(self) -> None:
        """Have every model read it, or none.

        Raises:
            BadInput: one cannot.
        """
        read = [(model.scorer, model.scorer.read_items(self._path)) for model, _ in self._models.roles()]
        for scorer, items in read:
            scorer.items = items

    def __enter__(self) -> FollowedItems:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.wait(LOOK_EVERY_S):
            try:
                self._followed.now()
            except BadInput:  # pragma: no cover  # Followed logs it
                log.exception("the items cannot be read")
