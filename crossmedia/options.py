"""The options of a command, made of the fields of a dataclass: name, type, default and help stand there, once.

A field ``batch_size: int = 1024`` is the option ``--batch-size``. Its help is what the docstring of the class says of
it below ``Attributes``; other fields that are named there in double backticks are shown as their options. Where a type
says too little, the field is ``Annotated`` with what click converts by: ``Annotated[int, click.IntRange(min=1)]``.
What click refuses in an option, ``checked`` refuses in a dataclass that a program made.
"""

from __future__ import annotations

import inspect
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass, replace
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import click
from click.core import ParameterSource

from crossmedia.errors import BadInput
from crossmedia.words import number_in

Function = TypeVar("Function", bound=Callable[..., Any])
Config = TypeVar("Config")


class Text(click.types.StringParamType):
    """Text, which the help calls by a name such as ``host:port``."""

    def __init__(self, name: str):
        self.name = name


class Matching(click.ParamType):  # type: ignore[type-arg]  # as Several
    """Text of a form.

    Args:
        form: a regular expression.
        name: that the help calls it by.
        must: what it must be, in words.
    """

    def __init__(self, form: str, name: str, must: str):
        self.form, self.name, self.must = re.compile(form), name, must

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The text itself."""
        if not self.form.fullmatch(str(value)):
            self.fail(f"{value!r} is none: it must be {self.must}.", param, ctx)
        return str(value)


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
                return tuple(number_in(part, int) if isinstance(part, str) else int(part) for part in parts)
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
        elif isinstance(value, Mapping):
            found += [f"{flag}={name}={one}" for name, one in value.items()]
        elif isinstance(value, tuple) and getattr(param, "multiple", False):
            found += [f"{flag}={one}" for one in value]
        elif value is not None:
            found.append(f"{flag}={','.join(map(str, value)) if isinstance(value, tuple) else value}")
    return found


def checked(config: Any, of: type[Config]) -> Config:
    """Settings that a program made, held to the types and ranges that the options of the same fields are held to.

    Args:
        config: to be checked.
        of: the dataclass that it must be.

    Returns:
        the same settings; a path where text stands is text, a list where a tuple stands a tuple, and numbers of NumPy
        are Python's.

    Raises:
        BadInput: it is no such dataclass, or a field has a value that it cannot have.
    """
    if not isinstance(config, of):
        raise BadInput(f"{of.__name__}(...) must be given, not {_shown(config)}.")
    values: dict[str, Any] = {}
    for name, hint in get_type_hints(of, include_extras=True).items():
        plain, notes = _parts(hint)
        value = getattr(config, name)
        if is_dataclass(plain):
            values[name] = checked(value, plain)  # type: ignore[arg-type]  # of a class, which is_dataclass lets pass
            continue
        try:
            values[name] = _plain_value(value, plain)
            for note in notes:
                values[name] = note.convert(values[name], None, None) if values[name] is not None else None
        except (TypeError, ValueError, OverflowError, click.UsageError):
            must = _must(plain, notes)
            raise BadInput(f"{of.__name__}({name}={_shown(value)}): {name} must be {must}.") from None
    return replace(config, **values)  # type: ignore[type-var]  # of a dataclass, which no type says


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
    plain, notes = _parts(hint)
    kind: Any = next(iter(notes), None)
    default = field.default if field.default is not MISSING else None
    flag = _flag(field.name)
    if plain is bool:
        names = f"{flag}/--no-{flag.removeprefix('--')}" if default else flag
        return click.option(names, is_flag=True, default=default, help=about)
    if get_origin(plain) is Literal:
        kind = click.Choice(get_args(plain))
    elif get_origin(plain) is dict:
        return click.option(flag, help=about, multiple=True, callback=_by_name, metavar="NAME=VALUE")
    elif get_origin(plain) is tuple:
        kind, default = kind or Several(get_args(plain)[0]), ",".join(map(str, default or ()))
    more = {"default": default} if given else {}
    return click.option(flag, type=kind or plain, help=about, **more)


def _by_name(ctx: click.Context, param: click.Parameter, values: Iterable[str]) -> dict[str, str]:
    """Values such as ``photo=host:7070`` as a dictionary."""
    found: dict[str, str] = {}
    for text in values:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not (name and equals and value):
            raise click.BadParameter(f"{text!r} is no NAME=VALUE.", ctx, param)
        if name in found:
            raise click.BadParameter(f"{name!r} is given twice.", ctx, param)
        found[name] = value
    return found


def _parts(hint: Any) -> tuple[Any, list[Any]]:
    """The type of a field, and what click converts by."""
    plain, *notes = get_args(hint) if hasattr(hint, "__metadata__") else (hint,)
    return plain, [note for note in notes if isinstance(note, click.ParamType)]


def _plain_value(value: Any, plain: Any) -> Any:
    """A value as the type of its field has it; an error of Python where it is of another."""
    options, origin = get_args(plain), get_origin(plain)
    fits = True
    if origin is Literal:
        fits = isinstance(value, str) and value in options
    elif origin is tuple:
        fits = isinstance(value, tuple | list)
        value = tuple(_plain_value(one, options[0]) for one in value) if fits else value
    elif origin is dict:
        fits = isinstance(value, Mapping) and all(isinstance(key, str) for key in value)
        value = dict(value)
    elif plain is int:
        fits = isinstance(value, Integral) and not isinstance(value, bool)
        value = int(value)
    elif plain is float:
        fits = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
        value = float(value)
    elif plain is str:
        value = os.fspath(value)  # of a Path, too
        fits = isinstance(value, str)
    elif Path in (plain, *options):
        value = None if value is None and type(None) in options else Path(value)
    else:
        fits = isinstance(value, plain)
    if not fits:
        raise ValueError(value)
    return value


def _must(plain: Any, notes: Iterable[Any]) -> str:
    """What a field must be, in words."""
    options, origin, forms = get_args(plain), get_origin(plain), [n.must for n in notes if isinstance(n, Matching)]
    if forms:
        return str(forms[0])
    if origin is Literal:
        return f"one of {', '.join(map(repr, options))}"
    if origin is tuple:
        return f"a tuple or list, such as {_SUCH[options[0]]}"
    if origin is dict:
        return "a dict with names as its keys"
    if Path in (plain, *options):
        return "a str or Path" + (" of a file, not of a folder" if notes else "")
    bounds = [bound for note in notes if isinstance(note, click.IntRange | click.FloatRange) for bound in _bounds(note)]
    return ", ".join([_WORDS.get(plain, str(plain)), *filter(None, [" and ".join(bounds)])])


_WORDS = {bool: "True or False", int: "a whole number", float: "a finite number", str: "a str or Path"}
_SUCH = {int: "(200, 80)", str: "('click',)"}


def _bounds(of: Any) -> Iterable[str]:
    if of.min is not None:
        yield f"{'above' if of.min_open else 'at least'} {of.min}"
    if of.max is not None:
        yield f"{'below' if of.max_open else 'at most'} {of.max}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:76]} ..."


def check_not_empty(name: str) -> None:
    """An option that chooses what the running command makes was not given as an empty text.

    Raises:
        BadInput: it was, as by a variable of the shell that is not set; the command would make something else.
    """
    context = click.get_current_context()
    if context.params[name] == "" and context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
        raise BadInput(f"--{name} is empty; is a variable of the shell not set? Give a value, or leave --{name} out.")
