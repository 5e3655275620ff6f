"""The list of photos that cannot be embedded, each with its reason."""

from __future__ import annotations

from crossmedia.v1 import image_server_pb2 as pb

from imgserver.client.results import Status
from imgserver.disk import replacing
from imgserver.storage.records import Ids, Space
from imgserver.storage.store import Store

OK = pb.VECTOR_STATUS_OK
REJECTS_FILE = "rejects.csv"


def write_rejects(
    store: Store, space: Space, reasons: dict[int, str], only: Ids | None = None
) -> tuple[int, str | None]:
    """Write every rejected id with its reason.

    Args:
        store: where the file goes.
        space: features, with what is known to fail from earlier runs, and of these the status only.
        reasons: of this run, by image id.
        only: leave out all other ids, shape (n,); None: write all.

    Returns:
        how many there are, and the file; None where there is none to write.
    """
    ids, entries, _ = store.index.load(space.name)
    bad = entries["status"] != OK
    every = {
        image_id: f"{Status(status).name}: found in an earlier run"
        for image_id, status in zip(ids[bad].tolist(), entries["status"][bad].tolist(), strict=True)
    } | reasons
    chosen = set(only.tolist()) if only is not None else None
    rows = [(i, reason) for i, reason in sorted(every.items()) if chosen is None or i in chosen]
    path = store.folder / REJECTS_FILE
    if not rows:
        path.unlink(missing_ok=True)
        return 0, None
    lines = [f'{image_id},"{reason.replace(chr(34), chr(39))}"' for image_id, reason in rows]
    with replacing(path) as part:
        part.write_text("image_id,reason\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return len(rows), str(path)
