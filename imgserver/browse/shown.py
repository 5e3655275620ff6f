"""Images as a page shows them: a frame with the photo or why there is none, its name, and a line below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from crossmedia.imgserver.client import ImageClient, ListedImages, Status
from crossmedia.imgserver.client.listing import NEVER

IN_WORDS = {
    Status.OK: "with a vector",
    NEVER: "never embedded",
    Status.NOT_FOUND: "missing",
    Status.CORRUPT: "corrupt",
    Status.TOO_LARGE: "too large",
    Status.TIMED_OUT: "not ready in time",
    Status.FAILED: "failed",
}
ADVICE = {
    NEVER: "Run 'imgserver precompute' over the catalogue.",
    Status.NOT_FOUND: "The catalogue has no such photo.",
    Status.CORRUPT: "Its bytes are no picture, or a truncated one.",
    Status.TOO_LARGE: "It has more bytes or pixels than the server accepts.",
    Status.TIMED_OUT: "It was not ready before the deadline; ask again.",
    Status.FAILED: "Reading or computing failed for a reason outside the photo; the server's log says why.",
}


@dataclass(frozen=True)
class Shown:
    """An image in a page.

    Attributes:
        image_id: its id.
        name: as a manifest calls it, or its id.
        status: a ``Status``; 0: nobody has embedded it.
        why: it has no vector; empty where it has one.
        caption: below its name.
        marked: whether it stands out.
    """

    image_id: int
    name: str
    status: int
    why: str
    caption: str = ""
    marked: bool = False

    @property
    def has_photo(self) -> bool:
        """Whether a photo may be had: of one that is missing, or no picture, there is none."""
        return self.status in (Status.OK, NEVER, Status.TOO_LARGE, Status.FAILED, Status.TIMED_OUT)

    @property
    def status_in_words(self) -> str:
        """Such as ``corrupt``."""
        return IN_WORDS[self.status]

    @property
    def alt(self) -> str:
        """Words for those who cannot see the photo."""
        return f"photo {self.name}"


def shown(
    listed: ListedImages, captions: Sequence[str] = (), marked: npt.NDArray[np.bool_] | None = None
) -> list[Shown]:
    """The images of a list, shape (n,), with a caption each."""
    found = []
    for row, (image_id, status) in enumerate(zip(listed.image_ids.tolist(), listed.status.tolist(), strict=True)):
        why = "" if status == Status.OK else listed.reasons[row] or ADVICE[status]
        caption, stands_out = captions[row] if captions else "", bool(marked[row]) if marked is not None else False
        found.append(Shown(image_id, listed.names[row], status, why, caption, stands_out))
    return found


def shown_of(client: ImageClient, ids: npt.NDArray[np.int64], captions: Sequence[str] = ()) -> list[Shown]:
    """Images by id, shape (n,), with a caption each."""
    return shown(client.images_of(ids), captions) if len(ids) else []
