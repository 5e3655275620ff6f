"""Make dataclasses from JSON that somebody else may have written: every field must be there, and of its type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

Made = TypeVar("Made")


def typed(cls: type[Made], values: Any) -> Made:
    """An instance of the dataclass ``cls`` from a JSON object; lists become tuples, and defaults fill missing fields.

    Raises:
        ValueError: it is no object, a field is missing, unknown or of another type; the message names it.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"it holds {_short(values)} where an object should be")
    hints, known = get_type_hints(cls), {field.name: field for field in fields(cls)}  # type: ignore[arg-type]
    if unknown := [name for name in values if name not in known]:
        raise ValueError(f"{unknown[0]!r} is unknown")
    for name, field in known.items():
        if name not in values:
            if field.default is MISSING and field.default_factory is MISSING:
                raise ValueError(f"{name!r} is missing")
        elif not _fits(values[name], hints[name]):
            raise ValueError(f"{name!r} is {_short(values[name])}, which is of the wrong type")
    return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def _fits(value: Any, hint: Any) -> bool:
    kind = get_origin(hint)
    if hint is Any:
        return True
    if kind is tuple:
        return isinstance(value, list | tuple) and all(_fits(one, get_args(hint)[0]) for one in value)
    if kind is dict:
        of_key, of_value = get_args(hint)
        return isinstance(value, dict) and all(_fits(k, of_key) and _fits(v, of_value) for k, v in value.items())
    if hint in (int, float):
        return isinstance(value, int | hint) and not isinstance(value, bool)
    return isinstance(value, hint)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
