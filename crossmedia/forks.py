"""What is open in one process cannot be used in another that was forked from it."""

from __future__ import annotations

import os

from crossmedia.errors import StoreError


def check_not_forked(opened_by: int, what: str) -> None:
    """This process is the one that opened it.

    Args:
        opened_by: id of the process that did.
        what: is open, as a sentence begins.

    Raises:
        StoreError: this is a process that was forked later.
    """
    if os.getpid() != opened_by:
        raise StoreError(
            f"{what} was opened before this process was forked, and what was open then cannot be used here. Open it "
            f"again in this process (crossmedia.open_store), in a worker of a DataLoader when it is first asked; or "
            f"ask a daemon, whose client works in every process."
        )
