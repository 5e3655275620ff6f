"""Options that are made of dataclasses: what a field says is what the command takes."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import click
import pytest
from click.testing import CliRunner

from crossmedia.config import Command
from crossmedia.imgserver.commands.daemon import serve
from crossmedia.imgserver.serve_config import ServeConfig
from crossmedia.options import arguments_of, help_of, options_of
from crossmedia.trainer.commands.options import OF_ONE_RUN, UNSET
from crossmedia.trainer.commands.reporting import report
from crossmedia.trainer.commands.training import compare, fit_command
from crossmedia.trainer.settings import CompareConfig, FitConfig, ReportConfig


@dataclass(frozen=True)
class Oven:
    """How bread is baked.

    Attributes:
        heat: degrees, above all ``fan`` and
            steam; ``none`` is cold.
        fan: blow.
        light: shine.
        kind: of ``bread``.
        minutes: one a side.
        names: of the loaves.
        book: where it is written.
    """

    heat: Annotated[int, click.IntRange(min=0)] = 200
    fan: bool = False
    light: bool = True
    kind: Literal["rye", "wheat"] = "rye"
    minutes: tuple[int, ...] = (20, 5)
    names: tuple[str, ...] = ()
    book: Annotated[Path | None, click.Path(path_type=Path)] = None


@click.command(cls=Command)
@options_of(Oven, (field.name for field in fields(Oven)), {"kind": " Rye if it rains."})
def bake(**values: Any) -> None:
    """Bake."""
    click.echo(repr(values))


def baked(*arguments: str) -> Any:
    done = CliRunner().invoke(bake, arguments)
    return eval(done.output, {"PosixPath": Path}) if done.exit_code == 0 else done.output


def test_a_field_is_an_option_of_its_type_and_default() -> None:
    plain = {"heat": 200, "fan": False, "light": True, "kind": None, "minutes": (20, 5), "names": (), "book": None}
    assert baked() == plain
    given = ("--heat=90", "--fan", "--no-light", "--kind=wheat", "--minutes=1,2", "--names= a, b ,", "--book=x")
    assert baked(*given) == {
        **{"heat": 90, "fan": True, "light": False, "kind": "wheat", "minutes": (1, 2), "names": ("a", "b")},
        "book": Path("x"),
    }
    for wrong in ("--heat=-1", "--kind=spelt", "--minutes=1,x", "--heat=warm"):
        assert "Invalid value" in baked(wrong)


def test_the_docstring_is_the_help() -> None:
    assert help_of(Oven)["heat"] == "Degrees, above all --fan and steam; none is cold."
    assert help_of(Oven)["book"] == "Where it is written."
    kind = next(parameter for parameter in bake.params if parameter.name == "kind")
    assert isinstance(kind, click.Option)
    assert kind.help == "Of bread. Rye if it rains."


def test_what_was_given_is_typed_for_another_process() -> None:
    given = ["--heat=90", "--fan", "--no-light", "--kind=wheat", "--minutes=1,2", "--names=a,b", "--book=x"]
    context = bake.make_context("bake", list(given))
    typed = arguments_of(bake.params, context.params)
    assert typed == given
    assert bake.make_context("bake", typed).params == context.params


@pytest.mark.parametrize(
    ("command", "config", "others"),
    [
        (fit_command, FitConfig, {"options"}),
        (compare, FitConfig, {"options", *OF_ONE_RUN}),
        (compare, CompareConfig, {"base"}),
        (report, ReportConfig, {"comparison"}),
        (serve, ServeConfig, set()),
    ],
)
def test_a_command_has_an_option_for_every_setting(command: click.Command, config: Any, others: set[str]) -> None:
    options = {option.name: option for option in command.params if isinstance(option, click.Option)}
    arguments = ["runs/compare"] if command is report else []
    taken = command.make_context("command", arguments).params
    for field in fields(config):
        if field.name not in others:
            about, given = options[field.name].help, field.name not in UNSET or config is not FitConfig
            assert about is not None
            assert about.startswith(help_of(config)[field.name]) or field.name == "photo_roots"
            assert taken[field.name] == (field.default if given else None), field.name
    assert not others & options.keys()
