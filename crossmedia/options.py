"""The options of a command, made of the fields of a dataclass: name, type, default and help stand there, once.

A field ``batch_size: int = 1024`` is the option ``--batch-size``. Its help is what the docstring of the class says of
it below ``Attributes``; other fields that are named there in double backticks are shown as their options. Where a type
says too little, the field is ``Annotated`` with what click converts by: ``Annotated[int, click.IntRange(min=1)]``.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field, fields
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import click

Function = TypeVar("Function", bound=Callable[..., Any])


class Text(click.types.StringParamType):
    """Text, which the help calls by a name such as ``host:port``."""

    def __init__(self, name: str):
        self.name = name


class Several(click.ParamType):  # type: ignore[type-arg]  # generic in late releases of click only
    """Values separated by commas, such as ``256,64,12``, or a list in the configuration file.

    Args:
        of: what each is, ``int`` or ``str``.
        name: that the help calls them by.
    """

    takes_lists = True

    def __init__(self, of: type[int | str], name: str = ""):
        self.of, self.name = of, name or ("numbers" if of is int else "names")

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Any, ...]:
        """A tuple; of whole numbers, or of names without the space around them."""
        parts = value if isinstance(value, list | tuple) else str(value).split(",")
        try:
            if self.of is int:
                return tuple(int(part) for part in parts)
            return tuple(name for part in parts if (name := str(part).strip()))
        except (TypeError, ValueError):
            self.fail(f"{value!r} is no list of whole numbers separated by commas.", param, ctx)


def options_of(
    config: type, names: Iterable[str], unset: Mapping[str, str] | None = None
) -> Callable[[Function], Function]:
    """Add options to a command, one for each of some fields of a dataclass.

    Args:
        config: the dataclass.
        names: of the fields.
        unset: options that are None when they are not given, and the end of the help of each.
    """
    hints, about, known = get_type_hints(config, include_extras=True), help_of(config), _fields(config)
    unset, chosen = unset or {}, list(names)

    def add(function: Function) -> Function:
        for name in reversed(chosen):
            more = unset.get(name)
            function = _option(known[name], hints[name], about[name] + (more or ""), given=more is None)(function)
        return function

    return add


def arguments_of(params: Iterable[click.Parameter], values: Mapping[str, Any]) -> list[str]:
    """Options as they are typed, for another process.

    Args:
        params: of a command.
        values: of its parameters, by name; what is None is left out.
    """
    found = []
    for param in params:
        value, flag = values.get(param.name or ""), param.opts[-1]
        if isinstance(value, bool):
            found += [flag] if value else param.secondary_opts[-1:]
        elif isinstance(value, tuple) and getattr(param, "multiple", False):
            found += [f"{flag}={one}" for one in value]
        elif value is not None:
            found.append(f"{flag}={','.join(map(str, value)) if isinstance(value, tuple) else value}")
    return found


def help_of(config: type) -> dict[str, str]:
    """What the docstring of a dataclass says of each field, as sentences for a terminal."""
    names = _fields(config)
    _, _, attributes = (inspect.getdoc(config) or "").partition("Attributes:\n")
    found = {}
    for name, text in re.findall(r"^    (\w+): (.*(?:\n     .*)*)", attributes, flags=re.MULTILINE):
        text = " ".join(text.split())
        text = re.sub(r"``(\w+)``", lambda word: _flag(word[1]) if word[1] in names else word[1], text)
        found[name] = text.replace("``", "")[:1].upper() + text.replace("``", "")[1:]
    return {name: found.get(name, "") for name in names}


def _fields(config: Any) -> dict[str, Field[Any]]:
    return {field.name: field for field in fields(config)}


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _option(field: Field[Any], hint: Any, about: str, *, given: bool) -> Callable[[Function], Function]:
    """The option of a field; ``given``: with its default, else None is what nobody gave."""
    plain, *notes = get_args(hint) if hasattr(hint, "__metadata__") else (hint,)
    kind: Any = next((note for note in notes if isinstance(note, click.ParamType)), None)
    default = field.default if field.default is not MISSING else None
    flag = _flag(field.name)
    if plain is bool:
        names = f"{flag}/--no-{flag.removeprefix('--')}" if default else flag
        return click.option(names, is_flag=True, default=default, help=about)
    if get_origin(plain) is Literal:
        kind = click.Choice(get_args(plain))
    elif get_origin(plain) is tuple:
        kind, default = kind or Several(get_args(plain)[0]), ",".join(map(str, default or ()))
    more = {"default": default} if given else {}
    return click.option(flag, type=kind or plain, help=about, **more)
