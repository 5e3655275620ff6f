"""A server and a store that are both named: never is one of them passed over in silence."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from crossmedia.config import Command, Group


@click.group(cls=Group, name="imgserver")
@click.option("--config")
def group(config: str | None) -> None:
    pass


@group.command(cls=Command)
@click.option("--server", default="localhost:7070")
@click.option("--store", default="")
def asks(server: str, store: str) -> None:
    ctx = click.get_current_context()
    click.echo(f"{server}|{store}|{ctx.get_parameter_source('store').name}")  # type: ignore[union-attr]


@group.command(cls=Command, one_place=False)
@click.option("--server")
@click.option("--store", default="store")
def examines(server: str, store: str) -> None:
    click.echo(f"{server}|{store}")


@pytest.mark.parametrize(
    ("arguments", "env", "file", "said"),
    [
        (["asks"], {}, "", "localhost:7070||DEFAULT"),
        (["asks", "--store=s"], {}, "", "localhost:7070|s|COMMANDLINE"),
        (["asks", "--server=a:1"], {}, "", "a:1||DEFAULT"),
        (["asks", "--server=a:1"], {"X_ASKS_STORE": "s"}, "", "a:1||DEFAULT"),
        (["asks", "--store=s"], {"X_ASKS_SERVER": "a:1"}, "", "localhost:7070|s|COMMANDLINE"),
        (["asks"], {"X_ASKS_STORE": "s"}, 'server = "a:1"', "localhost:7070|s|ENVIRONMENT"),
        (["asks", "--server=a:1"], {}, 'store = "s"', "a:1||DEFAULT"),
        (["examines", "--server=a:1", "--store=s"], {}, "", "a:1|s"),
    ],
)
def test_what_is_given_nearer_counts(
    arguments: list[str],
    env: dict[str, str],
    file: str,
    said: str,
    tmp_path: object,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(str(tmp_path))
    if file:
        with open("crossmedia.toml", "w") as opened:
            opened.write(f"[imgserver.asks]\n{file}\n")
    done = CliRunner().invoke(group, arguments, env=env, auto_envvar_prefix="X")
    assert done.output.strip() == said


@pytest.mark.parametrize(
    ("arguments", "env"),
    [
        (["asks", "--server=a:1", "--store=s"], {}),
        (["asks", "--server=localhost:7070", "--store=s"], {}),  # the default, but given
        (["asks"], {"X_ASKS_STORE": "s", "X_ASKS_SERVER": "a:1"}),
    ],
)
def test_two_from_one_source_are_refused(arguments: list[str], env: dict[str, str]) -> None:
    done = CliRunner().invoke(group, arguments, env=env, auto_envvar_prefix="X")
    assert done.exit_code == 2
    assert "and --store s are both given, and only one of them could be asked. Leave one out." in done.output
