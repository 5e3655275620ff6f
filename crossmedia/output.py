"""What a command prints when it is done."""

from __future__ import annotations

import json
from dataclasses import asdict, is_dataclass
from typing import Any

import click


def show(found: Any, as_json: bool, *lines: str) -> None:
    """Print what a command found or did, on standard output.

    Args:
        found: a dataclass or a dict, for programs.
        as_json: print it as one JSON object.
        lines: what people read instead; empty ones are left out.
    """
    if as_json:
        lines = (json.dumps(asdict(found) if is_dataclass(found) else found),)  # type: ignore[arg-type]  # no class
    for line in filter(None, lines):
        click.echo(line)
