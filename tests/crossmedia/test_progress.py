"""How far a command is: lines where there is no terminal, on standard error alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import run_command

from crossmedia.progress import Bar, duration


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("time.monotonic", made)
    return made


def test_without_a_terminal_a_line_is_said_now_and_then(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Bar("embedding", 4_000) as bar:
        for _ in range(30):
            clock.now += 1
            bar.advance(100)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "embedding: 1,000 of 4,000, about 30 s left",
        "embedding: 2,000 of 4,000, about 20 s left",
        "embedding: 3,000 of 4,000, about 10 s left",
    ]


def test_what_is_not_known_is_not_said(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Bar("indexing") as images, Bar("epoch 1", left=False) as rows, Bar("copying", of_bytes=True) as data:
        clock.now += 11
        images.advance(7)
        rows(1_024, 25_000, "epoch 1 log loss 0.5")
        data(3_000_000, 12_000_000)
    assert capsys.readouterr().err.splitlines() == [
        "indexing: 7 so far",
        "epoch 1 log loss 0.5: 1,024 of 25,000",
        "copying: 3 MB of 12 MB, about 30 s left",
    ]


def test_what_is_not_shown_says_its_sentences_alone(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Bar("embedding", 10, shown=False) as bar:
        clock.now += 60
        bar.advance(5)
        bar.say("[a] sentence: 1")
    assert capsys.readouterr().err == "[a] sentence: 1\n"


@pytest.mark.parametrize(
    ("seconds", "said"), [(0, "10 s"), (44, "40 s"), (94, "90 s"), (100, "2 min"), (3600, "60 min"), (9000, "2.5 h")]
)
def test_durations_are_rough(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_results_stay_clean(store: Path) -> None:
    done = run_command("imgserver", "index", f"--store={store}", "--json")
    assert json.loads(done.stdout)["info"]["images"] > 0
