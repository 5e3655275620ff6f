"""Credentials that hold secrets: who may read them, and when a change is taken."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from crossmedia.errors import (
    BadInput,
)
from crossmedia.secret_files import Followed, is_private


def test_secrets_of_root_may_be_read_by_the_group_of_a_container() -> None:
    assert is_private(0o100440, 0, 10001)
    assert not is_private(0o100440, 0, 0)
    assert not is_private(0o100440, 10001, 10001)
    assert not is_private(0o100444, 0, 10001)
    assert not is_private(0o100460, 0, 10001)
    assert is_private(0o100400, 0, 0)
    assert is_private(0o100600, 10001, 10001)


def test_files_that_are_being_written_are_not_taken_half(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    one = tmp_path / "one"
    one.write_text("1")
    during: list[Callable[[], object]] = []

    def load() -> str:
        text = one.read_text()
        if during:
            during.pop()()
        if not text:
            raise BadInput("it is empty")
        return text

    followed = Followed("one", [one], load)
    one.write_text("")
    during.append(lambda: one.write_text("22"))
    with caplog.at_level(logging.ERROR):
        assert followed.now() == "1"
        assert caplog.records == [], "what was read while it changed is neither taken nor complained of"
        assert followed.now() == "22"
        one.unlink()
        during.append(lambda: None)
        one.write_text("")
        assert [followed.now() for _ in range(3)] == ["22"] * 3
    assert len(caplog.records) == 1
