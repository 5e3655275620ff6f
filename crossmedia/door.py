"""Tell the person at the terminal about a failure: one sentence that says what to do, and an exit code; never a trace.

Faults of ours say it themselves. Those of the system and of libraries that read what a person gave (a file that is not
there, a Parquet file that is none) are put into words here. What is left is a bug, and keeps its trace.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import click

from crossmedia.disk import NOT_OURS
from crossmedia.errors import BadInput, CrossMediaError, StoreError, nearest

OURS = ("imgserver", "features", "trainer", "crossmedia")
# Libraries that read and write files of the person's, and fail in words of their own.
READERS = ("pyarrow", "PIL", "lmdb", "json", "tomllib", "zipfile", "tarfile", "csv", "safetensors", "safetensors_rust")
# The system's reasons that are a person's to mend: another path, another owner.
MISTAKES = (FileNotFoundError, *NOT_OURS)
ABOUT_PLACES = (BadInput, StoreError, OSError, click.BadParameter)
READ_ONLY = (errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL)


class Told(NamedTuple):
    """The message, and how the process ends."""

    message: str
    exit_code: int


def told(error: Exception, group: str) -> Told | None:
    """What to say about a failure; None for a bug.

    Args:
        error: that ended a command.
        group: ``imgserver``, ``features`` or ``trainer``: whose packages the command needs.
    """
    if isinstance(error, CrossMediaError):
        place = isinstance(error, StoreError) and isinstance(error.__cause__, NOT_OURS)
        return Told(str(error) or type(error).__name__, BadInput.exit_code if place else error.exit_code)
    if isinstance(error, BrokenPipeError):
        return None  # click ends for it without a word
    if isinstance(error, OSError):
        mistake = isinstance(error, MISTAKES) or error.errno in READ_ONLY
        where = "" if error.filename is None else f"{error.filename!s}: "
        reason = error.strerror or str(error) or type(error).__name__
        code = BadInput.exit_code if mistake else StoreError.exit_code
        return Told(f"A file or a connection cannot be used: {where}{reason}.{_remedy(error)}", code)
    if isinstance(error, ImportError) and (name := (error.name or "").partition(".")[0]) and name not in OURS:
        extra = "trainer" if group == "trainer" else "server"
        what = f"{name} is missing" if isinstance(error, ModuleNotFoundError) else f"{name} cannot be loaded: {error}"
        return Told(
            f"This command needs the {extra}'s packages ({what}). Install them with: pip install "
            f'"crossmedia[{extra}]"',
            BadInput.exit_code,
        )
    if isinstance(error, MemoryError):
        return Told(f"There is not enough memory. {error}".rstrip(), CrossMediaError.exit_code)
    if isinstance(error, UnicodeError):
        return Told(f"A text is not UTF-8: {error}. Save it as UTF-8, or correct the name.", BadInput.exit_code)
    if type(error).__module__.partition(".")[0] in READERS:
        return Told(f"What was given cannot be read: {_line(error)}", BadInput.exit_code)
    return None


def near_place(place: str | Path) -> str:
    """The file or folder beside ``place`` that is spelled most like it; empty where it is there, or nothing is near."""
    path = Path(place)
    try:
        beside = [] if os.path.lexists(path) else [name for name in os.listdir(path.parent) if name[0] != "."]
    except (OSError, ValueError):  # no such folder; no path at all
        return ""
    near = nearest(path.name, beside)
    return str(path.parent / near) if near else ""


def place_meant(error: Exception, message: str, places: Iterable[str | Path]) -> str:
    """`` Did you mean 'runs/din'?`` behind a message about a file or a folder that is not there; empty elsewhere.

    Args:
        error: that is told.
        message: that tells it.
        places: that the person gave.
    """
    if not isinstance(error, ABOUT_PLACES) or "Did you mean" in message:
        return ""
    for place in map(str, places):
        # As a word of its own: a folder named b is not what "cannot be used" speaks of.
        if re.search(rf"(?<![\w./-]){re.escape(place)}(?![\w/-]|\.\w)", message) and (near := near_place(place)):
            return f" Did you mean {near!r}?"
    return ""


def _remedy(error: OSError) -> str:
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        return " Choose another place, or let this user write there."
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return " Make room, or choose another disk."
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return " Raise the limit of open files (ulimit -n)."
    return ""


def _line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if text.endswith(".") else f"{text}."
