"""What became of one image: the statuses of wire and store, sets of them, and what a process says besides.

The numbers are those of ``VectorStatus`` in the wire contract, and stand in every store.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import numpy.typing as npt


class Status(IntEnum):
    """What became of one image id; the values of ``VectorStatus`` in the wire contract."""

    OK = 1
    NOT_FOUND = 2
    CORRUPT = 3
    TOO_LARGE = 4
    TIMED_OUT = 5
    FAILED = 6


PERMANENT = (Status.NOT_FOUND, Status.CORRUPT, Status.TOO_LARGE)  # asking again brings nothing else
TRANSIENT = (Status.TIMED_OUT, Status.FAILED)
NOT_KEPT = (Status.NOT_FOUND, Status.FAILED)  # another time may bring something else: nothing is stored of them

# In the place of a status, within a process; neither a message nor an entry of a store has them.
NOT_YET = 0
DAMAGED = 254  # there was an entry or a row, and it is not what was written

# In the place of a status, of a candidate: its image server could not be asked, or nothing is known of the item.
CACHED = 20  # its vector is one that was kept
AWAY = 21  # it was scored without a vector: none was kept
UNKNOWN_ITEM = 22  # it was named by its id alone, and is not in the table in which that was looked up


def is_ok(status: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Which of some statuses, shape (n,), are OK, shape (n,).

    NumPy takes ten times as long to compare bytes with the member of an enum as with the number that it is.
    """
    found: npt.NDArray[np.bool_] = status == _OK
    return found


_OK = int(Status.OK)
