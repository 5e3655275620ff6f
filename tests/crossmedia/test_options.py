"""Options that are made of dataclasses: what a field says is what the command takes."""

from __future__ import annotations

import json
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import click
import numpy as np
import pytest
from click.testing import CliRunner
from conftest import run_command

from crossmedia.config import Command
from crossmedia.errors import BadInput
from crossmedia.imgserver.commands.daemon import serve
from crossmedia.imgserver.serve_config import ServeConfig
from crossmedia.options import arguments_of, checked, help_of, options_of
from crossmedia.trainer.commands.options import OF_ONE_RUN, UNSET
from crossmedia.trainer.commands.reporting import report
from crossmedia.trainer.commands.training import compare, fit_command
from crossmedia.trainer.compare import compare as compare_models
from crossmedia.trainer.fit import fit as train
from crossmedia.trainer.report.page import write_report
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
        (compare, CompareConfig, {"base", "options"}),
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
            default = {} if field.default is MISSING else field.default
            assert taken[field.name] == (default if given else None), field.name
    assert not others & options.keys()


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"epochs": 0}, "epochs must be a whole number, at least 1."),
    ({"epochs": float("inf")}, "epochs must be a whole number, at least 1."),
    ({"learning_rate": 10**400}, "learning_rate must be a finite number, at least 0."),
    ({"epochs": True}, "epochs must be a whole number, at least 1."),
    ({"patience": 0}, "patience must be a whole number, at least 1."),
    ({"seed": -1}, "seed must be a whole number, at least 0."),
    ({"learning_rate": float("nan")}, "learning_rate must be a finite number, at least 0."),
    ({"learning_rate": -1}, "learning_rate must be a finite number, at least 0."),
    ({"embedding_l2": float("nan")}, "embedding_l2 must be a finite number, at least 0."),
    ({"timeout_s": float("inf")}, "timeout_s must be a finite number."),
    ({"negative_rate": 0}, "negative_rate must be a finite number, above 0 and at most 1."),
    ({"id_dropout": 1.0}, "id_dropout must be a finite number, at least 0 and below 1."),
    ({"batch_size": 8192.0}, "batch_size must be a whole number, at least 2."),
    ({"batch_size": 1}, "batch_size must be a whole number, at least 2."),
    ({"batch_size": None}, "batch_size must be a whole number, at least 2."),
    ({"max_missing": 20}, "max_missing must be a finite number, at least 0 and at most 1."),
    ({"max_missing": float("nan")}, "max_missing must be a finite number, at least 0 and at most 1."),
    ({"max_staleness": -1}, "max_staleness must be a whole number, at least 0."),
    ({"width": 0}, "width must be a whole number, at least 1."),
    ({"images": "no"}, "images must be True or False."),
    ({"head": "thaw"}, "head must be frozen, learn or SPACE=learn."),
    ({"labels": "click"}, "labels must be a tuple or list, such as ('click',)."),
    ({"labels": ("click", 1)}, "labels must be a tuple or list, such as ('click',)."),
    ({"head_widths": (64, 12.0)}, "head_widths must be a tuple or list, such as (200, 80)."),
    ({"options": "hidden=8"}, "options must be a dict with names as its keys."),
    ({"model": 3}, "model must be a str or Path."),
    ({"out": b"runs"}, "out must be a str or Path."),
]


@pytest.mark.parametrize(("settings", "must"), WRONG, ids=[str(settings)[:40] for settings, _ in WRONG])
def test_a_program_is_refused_what_a_command_is(settings: dict[str, Any], must: str) -> None:
    (name, value), *_ = settings.items()
    shown = repr(value) if len(repr(value)) <= 80 else f"{repr(value)[:76]} ..."
    said = f"FitConfig({name}={shown}): {must}"
    wrong = FitConfig(**settings)
    for refuses in (
        lambda: train(wrong),
        lambda: compare_models(CompareConfig(wrong)),
        lambda: FitConfig.suited_to("none", **settings),
    ):
        with pytest.raises(BadInput) as found:
            refuses()
        assert str(found.value) == said


@pytest.mark.parametrize(
    ("refuses", "said"),
    [
        (lambda: train({}), "FitConfig(...) must be given, not {}."),  # type: ignore[arg-type]
        (lambda: train("samples"), "FitConfig(...) must be given, not 'samples'."),  # type: ignore[arg-type]
        (lambda: compare_models(FitConfig()), "CompareConfig(...) must be given, not FitConfig("),  # type: ignore[arg-type]
        (lambda: compare_models(CompareConfig({})), "FitConfig(...) must be given, not {}."),  # type: ignore[arg-type]
        (
            lambda: compare_models(CompareConfig(FitConfig(), models="din,lr")),  # type: ignore[arg-type]
            "CompareConfig(models='din,lr'): models must be a tuple or list, such as ('click',).",
        ),
        (
            lambda: compare_models(CompareConfig(FitConfig(), seeds=0)),
            "CompareConfig(seeds=0): seeds must be a whole number, at least 1.",
        ),
        (
            lambda: compare_models(CompareConfig(FitConfig(), results=Path("/"))),
            "CompareConfig(results=PosixPath('/')): results must be a str or Path of a file, not of a folder.",
        ),
        (
            lambda: write_report(ReportConfig(Path("none"), seed=-1)),
            "ReportConfig(seed=-1): seed must be a whole number, at least 0.",
        ),
    ],
)
def test_other_settings_are_refused_too(refuses: Any, said: str) -> None:
    with pytest.raises(BadInput) as found:
        refuses()
    assert str(found.value).startswith(said)


def test_settings_that_are_right_are_plain_values() -> None:
    given: dict[str, Any] = {"samples": Path("a"), "out": Path("b"), "store": Path("c"), "warm_start": Path("d")}
    given |= {"epochs": np.int64(2), "learning_rate": np.float32(0.5), "negative_rate": 1, "labels": ["buy"]}
    found = checked(FitConfig(**given), FitConfig)
    plain: dict[str, Any] = {"samples": "a", "out": "b", "store": "c", "warm_start": "d"}
    plain |= {"epochs": 2, "learning_rate": 0.5, "negative_rate": 1.0, "labels": ("buy",)}
    assert found == FitConfig(**plain)
    assert json.loads(json.dumps(asdict(found)))["epochs"] == 2
    assert checked(FitConfig(), FitConfig) == FitConfig()
    named: Any = "x.jsonl"
    assert checked(CompareConfig(FitConfig(), results=named), CompareConfig).results == Path("x.jsonl")


@pytest.mark.parametrize(
    ("command", "arguments", "option"),
    [
        (("imgserver", "export"), ("--store=.", "--out=all.parquet"), "--since"),
        (("trainer", "report"), ("runs",), "--item"),
    ],
)
def test_an_empty_text_does_not_make_another_thing(
    command: tuple[str, str], arguments: tuple[str, ...], option: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As a variable of a shell that is not set: all vectors in place of changes, a report in place of an item's."""
    monkeypatch.chdir(tmp_path)
    done = run_command(*command, *arguments, f"{option}=", check=False)
    assert done.returncode == 2
    assert f"{option} is empty" in done.stderr
    assert f"{option} is empty" not in run_command(*command, *arguments, check=False).stderr


@pytest.mark.parametrize("option", ["--width", "--learning-rate", "--head-widths"])
@pytest.mark.parametrize("text", ["1_6", "\uff11\uff16"])
def test_numbers_are_in_ascii_digits(option: str, text: str) -> None:
    """Python reads both as 16, and who typed them meant 1.6 or does not see what was read."""
    done = CliRunner().invoke(fit_command, ["--samples=samples", f"{option}={text}"])
    assert done.exit_code == 2
    assert f"Invalid value for '{option}': {text!r} is no" in done.output
