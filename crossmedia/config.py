"""Configure every command: a flag counts first, then the environment, then one TOML file, then the default.

Click already knows three of the four (flag > environment > ``default_map`` > default), so this module only feeds
it: the environment names follow from the command (``imgserver serve --port`` is ``CROSSMEDIA_IMGSERVER_SERVE_PORT``),
and ``default_map`` is read from the TOML file, whose tables are named like the commands::

    [imgserver]            # for every imgserver command that has the option
    store = "/data/store"
    [imgserver.serve]
    port = 7070
    [client]               # TLS and token of every command that calls a server: imgserver/client/security.py
    tls-ca = "/etc/crossmedia/ca.pem"

The file is ``crossmedia.toml`` in the working folder, or what ``--config`` or ``CROSSMEDIA_CONFIG`` names.
Exit codes: 0 done, 1 the work failed, 2 wrong usage or input, 3 the server cannot be reached or is overloaded,
4 the server has no vectors, another version of them or another part of the images, 5 images are missing or rejected
beyond the limit.
"""

from __future__ import annotations

import json
import math
import os
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import click

from crossmedia.door import place_meant, told
from crossmedia.environment import CLIENT
from crossmedia.errors import BadInput, CrossMediaError, DeadlineExceeded, did_you_mean
from crossmedia.hosts import keep_loopback_from_proxies
from crossmedia.interrupts import as_usual, end_on_signals, say_when_interrupted
from crossmedia.one_place import keep_one_place
from crossmedia.words import in_ascii_digits

CONFIG_FILE = "crossmedia.toml"
CONFIG_ENV = "CROSSMEDIA_CONFIG"
KEPT = "What was committed is kept: the same command goes on with the rest."
NOTHING_LOST = "Nothing is lost: run the same command again."
MOST = 2**63 - 1  # what libraries take
# Parameters that are text and name what must be there, beside those of the type click.Path; and what is yet to be made.
PLACES, TO_BE_MADE = ("store", "catalogue", "samples", "warm_start", "queries"), ("out", "plot", "to")


class Choice(click.Choice[str]):
    """One of several words; for a mistyped word the error suggests the nearest one."""

    def get_invalid_choice_message(self, value: Any, ctx: click.Context | None) -> str:
        """Click's message, and the nearest choice."""
        return super().get_invalid_choice_message(value, ctx) + did_you_mean(value, map(str, self.choices))


class Command(click.Command):
    """A command whose help shows an example, each option's default, and the other ways to give options.

    Args:
        example: a line or several, as they are typed, without ``crossmedia`` and the group.
        goes_on: whether it goes on where a run of it was ended by a kill; others start anew.
        one_place: whether a server and a store that are named are the same thing, so that only one may be.
        sections: headings of the help, and the options below each; the rest stands below ``Options``.
    """

    def __init__(
        self,
        *args: Any,
        example: str = "",
        goes_on: bool = False,
        one_place: bool = True,
        sections: dict[str, tuple[str, ...]] | None = None,
        **kwargs: Any,
    ):
        self.example, self._goes_on, self._one_place, self.sections = example, goes_on, one_place, sections or {}
        kwargs.setdefault("context_settings", {})
        kwargs["context_settings"].setdefault("show_default", True)
        kwargs["context_settings"].setdefault("max_content_width", 110)
        super().__init__(*args, **kwargs)
        for parameter in self.params:
            if type(parameter.type) is click.Choice:
                parameter.type = Choice(parameter.type.choices)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The options below their headings, each section in its own order."""
        records = {option.opts[-1]: option.get_help_record(ctx) for option in self.get_params(ctx)}
        for heading, names in self.sections.items():
            with formatter.section(heading):
                formatter.write_dl([record for name in names if (record := records.pop(name)) is not None])
        if rest := [record for record in records.values() if record is not None]:
            with formatter.section("Options"):
                formatter.write_dl(rest)

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the text, and the example below it."""
        super().format_help_text(ctx, formatter)
        if self.example:
            with formatter.section("Example"):
                for line in self.example.splitlines():
                    formatter.write(f"{'':{formatter.current_indent}}{ctx.command_path} {line}\n")

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one line on how to give options in the environment and in the file."""
        option = next((o for o in self.params if isinstance(o, click.Option) and not o.is_flag), None)
        if ctx.auto_envvar_prefix and option is not None and option.name:
            table = ".".join(ctx.command_path.split()[1:])
            formatter.write_paragraph()
            formatter.write_text(
                f"Options are variables too ({option.opts[-1]} is {ctx.auto_envvar_prefix}_{option.name.upper()}), "
                f"and lines of {CONFIG_FILE} below [{table}]."
            )

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does; a value that is empty, as of a variable of the shell that is not set, is none of a path's."""
        given, _, _ = self.make_parser(ctx).parse_args(list(args))
        for parameter in self.params:
            value = given.get(parameter.name or "")
            empty = "" in value if isinstance(value, list | tuple) else value == ""
            if empty and parameter.default != "" and not ctx.resilient_parsing:
                raise click.BadParameter("it is empty.", ctx, parameter)
            if isinstance(parameter.type, click.types.IntParamType | click.types.FloatParamType):
                for text in value if isinstance(value, list | tuple) else [value]:
                    if isinstance(text, str) and not in_ascii_digits(text):
                        raise click.BadParameter(f"{text!r} is no number in plain digits.", ctx, parameter)
        try:
            return super().parse_args(ctx, args)
        except click.BadParameter as error:
            meant = place_meant(error, error.message, self._places(given))
            raise click.BadParameter(error.message + meant, ctx, error.param) if meant else error from None

    def _places(self, values: Mapping[str, Any]) -> Iterator[str | Path]:
        """What was given for parameters that name what must be there."""
        for parameter in self.params:
            name = parameter.name or ""
            if (isinstance(parameter.type, click.Path) or name in PLACES) and name not in TO_BE_MADE:
                value = values.get(name)
                yield from filter(None, value if isinstance(value, list | tuple) else [value])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; what fails becomes a line and an exit code, with ``--json`` an object too: see ``told``."""
        say_when_interrupted(f"{ctx.command_path}: Interrupted. {KEPT if self._goes_on else NOTHING_LOST}")
        try:
            for name, value in ctx.params.items():
                flag = f"--{name.replace('_', '-')}"
                if isinstance(value, float) and not math.isfinite(value):  # nan is neither below a range nor above
                    raise BadInput(f"{flag} is {value}; give a finite number.")
                if isinstance(value, int) and value > MOST:
                    raise BadInput(f"{flag} is {value}; nothing here counts further than {MOST}.")
            if self._one_place:
                keep_one_place(ctx)
            return super().invoke(ctx)
        except Exception as error:
            found = told(error, _group_of(ctx))
            if found is None:
                raise
            message, code = found
            message += place_meant(error, message, self._places(ctx.params))
            waited = isinstance(error, CrossMediaError) and (error.tried_s or isinstance(error, DeadlineExceeded))
            if self._goes_on and waited:
                message += f" {KEPT}"
            if ctx.params.get("as_json"):
                click.echo(json.dumps({"error": type(error).__name__, "message": message}))
            click.echo(printable(f"{ctx.command_path}: {message}"), err=True)
            ctx.exit(code)


def printable(text: str) -> str:
    """Text that every terminal can show: names of files may hold bytes that are not UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()


def _group_of(ctx: click.Context) -> str:
    """``imgserver``, ``features`` or ``trainer``."""
    return (ctx.parent and ctx.parent.command.name) or ""


class Group(click.Group):
    """A group that reads the configuration file for the commands below it.

    Args:
        sections: headings of the help, and the commands below each; without them they stand in one list.
    """

    command_class = Command
    group_class = type

    def __init__(self, *args: Any, sections: dict[str, tuple[click.Command, ...]] | None = None, **kwargs: Any):
        kwargs.setdefault("context_settings", {"max_content_width": 110})
        super().__init__(*args, **kwargs)
        self.sections = sections or {}
        for command in (command for commands in self.sections.values() for command in commands):
            self.add_command(command)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the commands, in the order of the sections."""
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands below their headings."""
        if not self.sections:
            super().format_commands(ctx, formatter)
            return
        longest = max(map(len, self.commands))
        for heading, commands in self.sections.items():
            with formatter.section(heading):
                formatter.write_dl(
                    [
                        ((command.name or "").ljust(longest), command.get_short_help_str(formatter.width - 6 - longest))
                        for command in commands
                    ]
                )

    def invoke(self, ctx: click.Context) -> Any:
        """Load the TOML file into ``default_map`` before any command below parses its options."""
        if ctx.parent is None:
            tables = load_config_file(ctx.params.get("config"))
            _set_client(tables.pop("client", {}))
            ctx.default_map = _defaults(
                self, ctx, tables if ctx.info_name == "crossmedia" else tables.get(self.name or "")
            )
        return super().invoke(ctx)


def load_config_file(path: str | None) -> dict[str, Any]:
    """Tables of the TOML file at ``path``, or of ``crossmedia.toml`` when there is no path; empty if there is no file.

    Raises:
        click.UsageError: the named file does not exist, or the file cannot be read, or is not TOML.
    """
    file = Path(path or CONFIG_FILE)
    if not file.is_file():
        if path:
            _usage_error(f"The configuration file {path} does not exist.")
        return {}
    try:
        return tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        _usage_error(f"The configuration file {file} is not valid TOML: {error}.")
    except OSError as error:
        _usage_error(f"The configuration file {file} cannot be read: {error}.")


def _set_client(table: Any) -> None:
    """Set ``[client]`` in the environment, where clients and child processes look; what is set there already stays."""
    if not table:
        return
    for key, value in table.items() if isinstance(table, dict) else [("client", table)]:
        name = key.replace("-", "_")
        if name not in CLIENT or not isinstance(value, str):
            known = ", ".join(known.replace("_", "-") for known in CLIENT)
            _usage_error(
                f"The configuration file sets {key!r} for the client; it takes strings for: {known}."
                f"{did_you_mean(key, known.split(', '))}"
            )
        os.environ.setdefault(CLIENT[name], value)


def _usage_error(message: str) -> NoReturn:
    raise click.UsageError(message)


def _defaults(command: click.Command, ctx: click.Context, table: Any, inherited: dict[str, Any] | None = None) -> Any:
    """``default_map`` of ``command``: its table, over plain values of the tables above; unknown keys are refused."""
    table = {} if table is None else table
    if not isinstance(table, dict):
        _usage_error(f"The configuration file says {command.name} = {table!r}; it must be a table, [{command.name}].")
    if not isinstance(command, click.Group):
        by_flag = {o.lstrip("-").replace("-", "_"): p for p in command.params for o in p.opts}
        unknown = sorted(k for k in table if k.replace("-", "_") not in by_flag)
        if unknown:
            _usage_error(
                f"The configuration file sets {unknown[0]!r} for {command.name!r}, which has no such option."
                f"{did_you_mean(unknown[0].replace('_', '-'), (known.replace('_', '-') for known in by_flag))}"
            )
        merged = {k.replace("-", "_"): v for k, v in {**(inherited or {}), **table}.items()}
        return {by_flag[k].name: _checked(by_flag[k], k, v) for k, v in merged.items() if k in by_flag}
    plain = {**(inherited or {}), **{k: v for k, v in table.items() if not isinstance(v, dict)}}
    known = command.list_commands(ctx)
    unknown = sorted(k for k, v in table.items() if isinstance(v, dict) and k not in known)
    if unknown:
        _usage_error(
            f"The configuration file has a table {unknown[0]!r}; the commands here are: {', '.join(known)}."
            f"{did_you_mean(unknown[0], known)}"
        )
    own = [k for k, v in table.items() if not isinstance(v, dict)]
    flags = _flags(command, ctx) if own else set()
    if strange := sorted(k for k in own if k.replace("-", "_") not in flags):
        _usage_error(
            f"The configuration file sets {strange[0]!r} for all commands of {command.name!r}, and none has such an "
            f"option.{did_you_mean(strange[0].replace('_', '-'), (flag.replace('_', '-') for flag in sorted(flags)))}"
        )
    result: dict[str, Any] = {}
    for name in known:
        if command.name == "crossmedia" and name not in table and not plain:
            continue  # do not import a group whose settings nobody gave
        sub = command.get_command(ctx, name)
        if sub is not None:
            result[name] = _defaults(sub, ctx, table.get(name), plain)
    return result


def _flags(command: click.Command, ctx: click.Context) -> set[str]:
    """Names of the options of a command, or of all commands below a group."""
    if isinstance(command, click.Group):
        below = (command.get_command(ctx, name) for name in command.list_commands(ctx))
        return {flag for sub in below if sub is not None for flag in _flags(sub, ctx)}
    return {option.lstrip("-").replace("-", "_") for parameter in command.params for option in parameter.opts}


def _checked(parameter: click.Parameter, key: str, value: Any) -> Any:
    """A value that click can convert; without this check, a list for a number, or infinity, would end in a trace."""
    of_several = getattr(parameter, "multiple", False) or parameter.nargs != 1
    several = isinstance(value, list) and (of_several or getattr(parameter.type, "takes_lists", False))
    key = key.replace("_", "-")
    for one in value if several else [value]:
        if not isinstance(one, str | int | float) or (isinstance(one, float) and not math.isfinite(one)):
            _usage_error(f"The configuration file sets {key!r} to {one!r}, which cannot be the value of an option.")
    if of_several and not several:
        _usage_error(f"The configuration file sets {key!r} to {value!r}; it is a list: {key} = [{json.dumps(value)}].")
    return value


def config_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--config`` to a group that can be the outermost command."""
    return click.option(
        "--config",
        envvar=CONFIG_ENV,
        show_envvar=True,
        metavar="FILE",
        help=f"Read settings from this TOML file instead of {CONFIG_FILE} in the working folder.",
    )(function)


json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print the result as one JSON object on standard output."
)


def run(group: click.Group, prefix: str) -> NoReturn:
    """Run ``group`` as a program, called ``crossmedia`` however it was started; its environment names start so."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # gRPC's own log lines would garble ours; errors are raised anyway
    keep_loopback_from_proxies()
    end_on_signals()
    try:
        # What a demo starts by ``python -m`` would name a command that nobody typed.
        group(auto_envvar_prefix=prefix, prog_name=" ".join(dict.fromkeys(["crossmedia", group.name or ""])))
    finally:
        as_usual()
    sys.exit(0)
