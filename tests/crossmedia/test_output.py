"""What a command prints: one object for programs, or lines for people."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest

from crossmedia.output import show


@dataclass(frozen=True)
class Made:
    """What a command did."""

    images: int
    file: str


@pytest.mark.parametrize("found", [Made(3, "a"), {"images": 3, "file": "a"}])
def test_an_object_or_lines(found: object, capsys: pytest.CaptureFixture[str]) -> None:
    show(found, True, "3 images", "", "written: a")
    assert json.loads(capsys.readouterr().out) == {"images": 3, "file": "a"}
    show(found, False, "3 images", "", "written: a")
    assert capsys.readouterr().out == "3 images\nwritten: a\n"
