"""The table of a comparison in a terminal of 80 characters, in a log and in a wide one; and which model is the best."""

from __future__ import annotations

import re
from typing import Any

import pytest

from crossmedia.trainer.report.tables import printed_table
from crossmedia.trainer.report.verdict import doubts_of_means, sentence, winner


def row(model: str, images: bool, auc: float | None, std: float | None = 0.003, seeds: int = 3) -> dict[str, Any]:
    def of(value: float | None) -> dict[str, float | None] | None:
        return None if value is None else {"mean": value, "std": std}

    everything = {"auc": of(auc), "gauc": of(0.6543), "log_loss": of(0.5432), "base_log_loss": 0.6109}
    everything |= {"auc_over_mean": {"mean": -0.0123, "std": 0.0031, "low": -0.0201, "high": -0.0045}}
    everything |= {"gauc_over_mean": {"mean": 0.0045, "std": None}}
    everything |= {"rela_impr": of(14.25) if images else None, "gauc_users": 900, "users": 1000}
    train = {"samples_per_s": 12345.0, "images_per_s": 4321.0, "bytes_per_sample": 123.0}
    spaces = ["image"] if images else []
    about = {"model": model, "images": images, "spaces": spaces, "baseline": False, "seeds": seeds, "train": train}
    unseen, held_out = ({"auc": of(value), "gauc": of(value - 0.05)} for value in (0.6101, 0.5999))
    return {**about, "all": everything, "unseen_items": unseen, "held_out_items": held_out}


def mean(model: str, auc: float) -> dict[str, Any]:
    """A row of a baseline, which nothing was trained for."""
    over = dict.fromkeys(("auc_over_mean", "gauc_over_mean", "rela_impr"))
    made = row(model, False, auc, None, 1)
    return {**made, "baseline": True, "train": None, "all": {**made["all"], **over}}


@pytest.mark.parametrize("width", ["", "40", "80", "200"])
def test_no_line_is_wider_than_the_terminal_and_no_number_is_cut(
    width: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor than 80 in a pipe, or in a terminal that is narrower, which wraps lines by itself."""
    monkeypatch.setenv("COLUMNS", width)
    rows = [row("embedding_mlp", False, 0.7156), row("din hidden=200,80 head=learn head_widths=64,12", True, 0.7412)]
    printed_table("test rows", rows, {"name": "best possible", "test": {"all": 0.8303, "unseen_items": 0.8343}})
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= max(80, int(width or 80))
    assert "…" not in text
    values = ["0.7156 ± 0.0030", "0.7412 ± 0.0030", "14.2 ± 0.0", "0.6543 ± 0.0030", "0.5432 ± 0.0030", "0.6109"]
    for value in (*values, "0.6101 ± 0.0030", "0.5999 ± 0.0030", "12,345", "4,321", "123", "0.8303", "0.8343"):
        assert re.search(rf"(^| ){re.escape(value)}( |$)", text, flags=re.MULTILINE), value
    assert text.startswith("test rows, mean ± standard deviation of 3 seeds\n")
    assert "900 of 1,000 users" in text
    assert len(re.findall(r"^embedding_mlp ids only ", text, flags=re.MULTILINE)) == (2 if width == "200" else 5)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (
            [row("din", False, 0.74), row("din", True, 0.70)],
            "Best on the test rows: din ids only (AUC 0.7400 ± 0.0030), before din with images (AUC 0.7000 ± 0.0030).",
        ),
        ([row("din", True, 0.741), row("lr", True, 0.740)], "0.0030); 3 seeds cannot tell the two apart."),
        ([row("din", True, 0.7, None, 1), row("lr", True, 0.6, None, 1)], "one seed cannot tell the two from chance."),
        ([row("din", True, 0.7, None, 1)], "Best on the test rows: din with images (AUC 0.7000)."),
        ([row("din", True, 0.49)], "No model orders the test rows better than a constant, whose AUC is .5."),
    ],
)
def test_the_winner_is_named_whether_it_has_images_or_not(rows: list[dict[str, Any]], said: str) -> None:
    assert winner(rows).endswith(said)


def test_labels_that_are_all_alike_have_no_winner() -> None:
    assert winner([row("din", True, None)]) == ""


@pytest.mark.parametrize(
    ("over", "chance"), [({"low": -0.02, "high": 0.01}, True), ({"low": -0.02, "high": -0.001}, False)]
)
def test_a_mean_that_wins_is_named_first_and_who_does_not_beat_it_is_said(over: dict[str, float], chance: bool) -> None:
    model = row("din", True, 0.74)
    model["all"]["auc_over_mean"] = {"mean": -0.01, "std": 0.003, **over}
    model["all"]["gauc_over_mean"] = {"mean": 0.02, "std": 0.003, "low": 0.01, "high": 0.03}
    table = [mean("constant", 0.5), mean("item + user mean", 0.75), model]
    said = winner(table)
    assert said.startswith("Best on the test rows: item + user mean (AUC 0.7500), before din with images (AUC 0.7400")
    assert ("cannot tell the two apart" in said) == chance
    (doubt,) = doubts_of_means(table)
    how = "not shown to be better" if chance else "worse"
    low, high = over["low"], over["high"]
    assert doubt == f"din with images is {how} than item + user mean: AUC -0.0100, 95 % {low:+.4f} to {high:+.4f}."


def test_an_interval_of_one_seed_says_that_it_is() -> None:
    one = row("din", True, 0.74, None, 1)
    gain = {"mean": 0.01, "std": None, "low": 0.004, "high": 0.016}
    one["all"] |= {"auc_gain": gain, "pairs": 1, "auc_over_mean": None, "gauc_over_mean": None}
    said = sentence([row("din", False, 0.73, None, 1), one])
    assert "The pictures helped din (AUC +0.0100, 95 % +0.0040 to +0.0160)." in said
    assert said.endswith(
        "With one seed the intervals are over users and items alone: another training may give another sign."
    )


def test_one_seed_without_an_interval_is_neither_better_nor_worse() -> None:
    for mean_over in (0.02, -0.02):
        one = row("din", True, 0.74, None, 1)
        one["all"] |= {"auc_over_mean": {"mean": mean_over, "std": None}, "gauc_over_mean": None}
        (doubt,) = doubts_of_means([one])
        assert doubt == f"din with images is not shown to be better than item + user mean: AUC {mean_over:+.4f}."


def test_rows_of_items_that_are_all_held_out_are_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    one = row("din", True, 0.74)
    over = {"mean": -0.01, "std": 0.003, "low": -0.02, "high": 0.01}
    for part in ("unseen_items", "held_out_items"):
        one[part] |= {"auc_over_mean": over, "rows": 20}
    (doubt,) = doubts_of_means([one])
    assert "unseen in training" in doubt
    assert "held out entirely" in doubt
    printed_table("test rows", [one])
    assert "held-out" in capsys.readouterr().out
    one["held_out_items"] = one["unseen_items"]
    (doubt,) = doubts_of_means([one])
    assert "unseen in training" in doubt
    assert "held out entirely" not in doubt
    printed_table("test rows", [one])
    assert "held-out" not in capsys.readouterr().out


def test_what_the_brackets_hold_is_said_where_there_are_some(capsys: pytest.CaptureFixture[str]) -> None:
    one = row("din", True, 0.74)
    printed_table("test rows", [one])
    assert "In brackets: 95 % interval over users, items, seeds" in capsys.readouterr().out
    one["all"]["auc_over_mean"] = {"mean": -0.0123, "std": 0.0031}
    printed_table("test rows", [one])
    said = capsys.readouterr().out
    assert "±: of the seeds alone" in said
    assert "In brackets" not in said
