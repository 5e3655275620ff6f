"""The list of photos that cannot be embedded: each with its key, its file, and the reason."""

from __future__ import annotations

import csv
import io
from dataclasses import astuple
from pathlib import Path

import numpy as np
import numpy.typing as npt

from crossmedia.disk import replacing
from crossmedia.imgserver.storage.catalogue import Catalogue
from crossmedia.imgserver.storage.records import Ids, Space
from crossmedia.imgserver.storage.rejects import COLUMNS, REJECTS_FILE, Reject, read_rejects
from crossmedia.imgserver.storage.store import Store
from crossmedia.names import ImageNames
from crossmedia.status import Status

NOT_KNOWN = "why is not known here"


def without_reason(folder: Path, ids: Ids) -> npt.NDArray[np.bool_]:
    """Which of some photos that are known to fail have no reason in the file, shape (n,): worth another look."""
    known = {i for i, reject in read_rejects(folder).items() if NOT_KNOWN not in reject.reason} if len(ids) else set()
    return np.array([i not in known for i in ids.tolist()], dtype=np.bool_)


def write_rejects(
    store: Store, space: Space, reasons: dict[int, str], only: Ids | None = None, catalogue: Catalogue | None = None
) -> tuple[int, str | None]:
    """Write every rejected photo with its reason; reasons of earlier runs stay.

    Args:
        store: where the file goes.
        space: features, with what is known to fail from earlier runs, and of these the status only.
        reasons: of this run, by image id.
        only: count these ids alone, shape (n,); None: all.
        catalogue: knows their files; None: what earlier runs wrote of them stays.

    Returns:
        how many of those that count are rejected, and the file; None where none of them is.
    """
    ids, entries, _ = store.index.load(space.name)
    status = dict(zip(ids.tolist(), entries["status"].tolist(), strict=True)) if len(ids) else {}
    before = read_rejects(store.folder)
    found = {i: Status(state).name for i, state in status.items() if state != Status.OK}
    every = {i: _former(before.get(i), name) for i, name in found.items()} | reasons
    chosen = set(only.tolist()) if only is not None else None
    if chosen is not None:  # what this run did not ask for stays as it was, such as a photo that could not be read
        others = {i: reject.reason for i, reject in before.items() if i not in chosen and status.get(i) != Status.OK}
        every = others | every
    path = store.folder / REJECTS_FILE
    if not every:
        path.unlink(missing_ok=True)
        return 0, None
    rejects = [Reject(i, "", before[i].file if i in before else "", reason) for i, reason in sorted(every.items())]
    _write(path, rejects, ImageNames.of_store(store.folder), catalogue)
    count = len(every) if chosen is None else len(chosen & every.keys())
    return count, str(path) if count else None


def _former(before: Reject | None, status: str) -> str:
    if before is not None and before.reason.startswith(f"{status}:"):
        return before.reason
    return f"{status}: {NOT_KNOWN}; 'imgserver precompute' over its catalogue looks at it again and says so"


def _write(path: Path, rejects: list[Reject], names: ImageNames | None, catalogue: Catalogue | None) -> None:
    keys = names.keys([reject.image_id for reject in rejects]) if names else [""] * len(rejects)
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(COLUMNS)
    for reject, key in zip(rejects, keys, strict=True):
        file = catalogue.place(reject.image_id) if catalogue else ""
        lines.writerow(astuple(Reject(reject.image_id, key, file or reject.file, " ".join(reject.reason.split()))))
    with replacing(path) as part:
        part.write_text(text.getvalue(), encoding="utf-8", newline="")
