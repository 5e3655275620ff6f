"""What serving needs of a store, whichever it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from crossmedia.imgserver.storage.records import Ids, Rows, Space


class Stored(NamedTuple):
    """What a store has of one image: its entry, with ``SOURCE`` and ``status``, and its row, shape (dim,)."""

    entry: Any
    row: npt.NDArray[Any]


# D102: what a method does is said once, where it is made: in ``Index``, ``Table``, ``Store``.


class Versions(Protocol):
    """Which versions there are; what of ``Index`` serving needs."""

    @property
    def active(self) -> str: ...  # noqa: D102
    @property
    def generation(self) -> int: ...  # noqa: D102
    def space(self, name: str) -> Space | None: ...  # noqa: D102
    def spaces(self, kind: str = "") -> list[Space]: ...  # noqa: D102


class Lookups(Protocol):
    """Rows of one version by id; see ``Table``."""

    space: Space
    loaded: bool

    @property
    def generation(self) -> int: ...  # noqa: D102
    def __len__(self) -> int: ...
    def load(self) -> None: ...  # noqa: D102
    def refresh(self) -> int: ...  # noqa: D102
    def get(self, ids: Ids) -> tuple[npt.NDArray[Any], npt.NDArray[np.uint8]]: ...  # noqa: D102


class ServedStore(Protocol):
    """What serving needs of a store; see ``Store``, and ``RedisStore``.

    Attributes:
        folder: of this machine; what a server keeps of its own lies there.
        filling_advice: what to do when there are no vectors.
        similarity_advice: what to do when there is no similarity index.
        readable: whether any row can be read now.
        damaged: rows and entries that were found damaged since the store was opened.
    """

    folder: Path
    filling_advice: str
    similarity_advice: str

    @property
    def index(self) -> Versions: ...  # noqa: D102
    @property
    def readable(self) -> bool: ...  # noqa: D102
    @property
    def damaged(self) -> int: ...  # noqa: D102
    def table(self, space: Space) -> Lookups: ...  # noqa: D102
    def fetch(self, space: Space, image_id: int) -> Stored | None: ...  # noqa: D102
    def knows(self, space: Space, ids: Ids) -> npt.NDArray[np.bool_]: ...  # noqa: D102
    def as_stored(self, space: Space, values: npt.NDArray[Any]) -> npt.NDArray[Any]: ...  # noqa: D102
    def put_all(self, parts: list[Rows]) -> Ids: ...  # noqa: D102
    def read_head(self, name: str) -> bytes | None: ...  # noqa: D102
    def read_card(self, name: str) -> bytes | None: ...  # noqa: D102
    def used_bytes(self) -> int: ...  # noqa: D102
    def free_bytes(self) -> int: ...  # noqa: D102
    def close(self) -> None: ...  # noqa: D102
