"""``--server`` and ``--store`` name one place: the one that was given nearer to the person counts, and never both."""

from __future__ import annotations

import click
from click.core import ParameterSource

from crossmedia.errors import BadInput

NAMES = ("server", "store")
# From the nearest to the person to the farthest; see ``crossmedia.config``.
SOURCES = (
    ParameterSource.COMMANDLINE,
    ParameterSource.ENVIRONMENT,
    ParameterSource.DEFAULT_MAP,
    ParameterSource.DEFAULT,
)


def keep_one_place(ctx: click.Context) -> None:
    """Of a command that takes both, set the one that was given farther away to its default: it is not looked at.

    Raises:
        BadInput: both were given on the command line, both in the environment, or both in the configuration file.
    """
    params = {param.name: param for param in ctx.command.params if param.name in NAMES and ctx.params[param.name]}
    given = {name: ctx.get_parameter_source(name) or ParameterSource.DEFAULT for name in params if name}
    farness = {name: SOURCES.index(source) for name, source in given.items() if source in SOURCES}
    if len(farness) < 2 or ParameterSource.DEFAULT in given.values():
        return
    if farness["server"] == farness["store"]:
        raise BadInput(
            f"--server {ctx.params['server']} and --store {ctx.params['store']} are both given, and only one of them "
            f"could be asked. Leave one out."
        )
    out = max(farness, key=lambda name: farness[name])
    ctx.params[out] = params[out].type_cast_value(ctx, params[out].default)
    ctx.set_parameter_source(out, ParameterSource.DEFAULT)
