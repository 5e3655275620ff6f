"""What callers in Python give, held to its type at once: later it would fail far from the line that is wrong.

Settings that are the fields of a dataclass are held by ``crossmedia.options.checked``.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

from crossmedia.errors import BadInput


def must(fits: bool, name: str, value: Any, what: str) -> None:
    """Refuse a value that does not fit.

    Args:
        fits: whether it does.
        name: of the argument.
        value: as it was given.
        what: it must be.

    Raises:
        BadInput: it does not fit.
    """
    if not fits:
        text = repr(value)
        raise BadInput(f"{name} is {text if len(text) <= 80 else f'{text[:76]} ...'}; it must be {what}.")


def check_seconds(timeout_s: Any) -> None:
    """Refuse what is no number of seconds.

    Raises:
        BadInput: it is none.
    """
    number = isinstance(timeout_s, Real) and not isinstance(timeout_s, bool) and not math.isnan(timeout_s)
    must(number, "timeout_s", timeout_s, "a number of seconds")


def check_whole(name: str, value: Any, least: int = 1, most: int | None = None) -> None:
    """Refuse what is no whole number, too small, or too large.

    Raises:
        BadInput: it is none.
    """
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    fits = whole and least <= int(value) and (most is None or int(value) <= most)
    must(fits, name, value, f"a whole number, at least {least}{'' if most is None else f' and at most {most}'}")


def once(name: str, values: Sequence[str]) -> None:
    """Refuse a list that names something twice: it would be counted twice.

    Raises:
        BadInput: it does.
    """
    if twice := [value for place, value in enumerate(values) if value in values[:place]]:
        raise BadInput(f"{name} names {twice[0]!r} twice; name each once.")


def check_places(**places: Any) -> None:
    """Refuse what names no file and no folder, such as None.

    Args:
        places: by the names of the arguments.

    Raises:
        BadInput: one is neither a str nor a Path.
    """
    for name, place in places.items():
        must(isinstance(place, str | os.PathLike), name, place, "a str or Path")
