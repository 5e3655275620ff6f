"""Files of results: what is there is not run again, what was cut off does no harm."""

from __future__ import annotations

import json
import multiprocessing
import re
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from crossmedia.errors import BadInput
from crossmedia.trainer.cli import trainer
from crossmedia.trainer.report import figures, summary, verdict
from crossmedia.trainer.runs import results


def line(seed: int = 0, *, images: bool = False, auc: float = 0.7, **fields: Any) -> dict[str, Any]:
    metrics = {"rows": 10, "auc": auc, "gauc": auc - 0.05, "log_loss": 0.5}
    buckets = {"0": {**metrics, "auc": auc - 0.1}, "1-4": metrics, "5-19": {"rows": 0}}
    return {
        **{"data": "shop", "samples": "aaaaaaaaaaaa", "model": "din", "images": images, "seed": seed},
        "vector_version": "cnn@1+pca@2/8" if images else "",
        "options": {"epochs": 5, "averaging": True},
        "test": {"all": metrics, "unseen_items": buckets["0"], "by_item_count": buckets},
        "train": dict.fromkeys(summary.COSTS, 1.0),
        "curve": [{"epoch": 1, "validation_auc": auc}],
        **fields,
    }


def test_a_line_that_was_cut_off_is_left_out_and_the_next_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "results.jsonl"
    results.append(path, line(0))
    with open(path, "ab") as file:
        file.write(json.dumps(line(1)).encode()[:40])
    assert [found["seed"] for found in results.read([path]).values()] == [0]
    results.append(path, line(2))
    results.append(path, line(0, auc=0.8))
    found = list(results.read([path]).values())
    assert [(one["seed"], one["test"]["all"]["auc"]) for one in found] == [(2, 0.7), (0, 0.8)]


def test_what_decides_the_numbers_is_the_key_and_nothing_else() -> None:
    plain = results.identity(line())
    assert results.identity(line(commit="abc", auc=0.9)) == plain
    assert (
        results.identity(line(options={"averaging": True})) == plain
    )  # the default, which an older release did not name
    for other in (
        line(1),
        line(images=True),
        *({**line(), name: "x"} for name in ("data", "samples", "model", "vector_version")),
        line(options={"averaging": True, "epochs": 6}),
    ):
        assert results.identity(other) != plain


def test_a_line_is_found_again_by_what_its_run_started_from() -> None:
    for head, started, ended in (
        ("learn", "cnn@1", "cnn@1+learned@2/12"),
        ("frozen", "cnn@1+pca@2/8", "cnn@1+pca@2/8"),
    ):
        key = {
            name: line(images=True, options={"averaging": True, "head": head}, vector_version=started)[name]
            for name in results.KEY
        }
        found = results.new_line(key, {"vector_version": ended, "test": {}})
        assert results.identity(found) == results.identity(key)
        assert found.get("learned_version", started) == ended


def _append(path: Path, first: int) -> None:
    for seed in range(first, first + 50):
        results.append(path, line(seed))


def test_processes_that_append_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_append, args=(path, first)) for first in (0, 50, 100)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert sorted(one["seed"] for one in results.read([path]).values()) == list(range(150))


def test_the_commit_is_that_of_this_checkout_and_of_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package lies in an environment, which may lie in somebody's own checkout."""
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "--message=first"], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout
    for place in (tmp_path / "env" / "trainer", tmp_path / "trainer"):
        (place / "runs").mkdir(parents=True)
    monkeypatch.setattr(results, "__file__", str(tmp_path / "env" / "trainer" / "runs" / "results.py"))
    assert results.code_version() == version("crossmedia")
    monkeypatch.setattr(results, "__file__", str(tmp_path / "trainer" / "runs" / "results.py"))
    assert commit.startswith(results.code_version())


def test_a_file_of_something_else_is_said(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(BadInput, match=r"Line 1 of .*x\.jsonl is no result"):
        results.read([tmp_path / "x.jsonl"])
    with pytest.raises(BadInput, match="cannot be read"):
        results.read([tmp_path / "none.jsonl"])


def test_rows_pair_runs_of_one_seed() -> None:
    lines = [line(0, auc=0.7), line(1, auc=0.6), line(1, images=True, auc=0.65), line(2, images=True, auc=0.9)]
    ids, images = summary.rows(lines)
    assert ids["all"]["auc"]["mean"] == pytest.approx(0.65)
    assert images["all"]["auc"]["mean"] == pytest.approx(0.775)
    assert images["all"]["auc_gain"] == {"mean": pytest.approx(0.05), "std": None}
    assert images["all"]["rela_impr"]["mean"] == pytest.approx((0.15 / 0.1 - 1) * 100)
    assert images["unseen_items"]["auc_gain"]["mean"] == pytest.approx(0.05)
    assert images["unseen_items"]["rela_impr"] is None  # the base is a coin there
    assert "One seed cannot tell" in verdict.sentence([ids, images])


def test_runs_with_a_head_that_learns_are_compared_with_those_of_ids_only() -> None:
    """Which have no head, as 'trainer compare' trains them."""
    lines = []
    for seed in range(3):
        for images, head in ((False, "frozen"), (True, "frozen"), (True, "learn")):
            options = {"averaging": True, "head": head, "head_widths": [64, 8], "id_dropout": 0.3}
            lines.append(line(seed, images=images, auc=0.7 + 0.05 * images + 0.01 * (head == "learn"), options=options))
    rows = summary.rows(lines)
    assert [(row["model"], row["images"], row["all"]["pairs"]) for row in rows] == [
        ("din id_dropout=0.3", False, 3),
        ("din id_dropout=0.3 head_widths=64,8", True, 3),
        ("din id_dropout=0.3 head=learn head_widths=64,8", True, 3),
    ]
    assert rows[2]["all"]["auc_gain"]["mean"] == pytest.approx(0.06)
    assert "helped din id_dropout=0.3 head=learn head_widths=64,8 (AUC +0.0600" in verdict.sentence(rows)
    panels = figures.learning_curves(lines).axes
    assert [panel.get_title() for panel in panels] == [row["model"] for row in rows[1:]]
    runs = [[one for one in panel.lines if one.get_gid() is not None] for panel in panels]
    assert [*map(len, runs)] == [6, 6]  # three seeds with images, and beside them ids only


def test_groups_hold_what_can_be_compared() -> None:
    other = line(0, images=True, vector_version="cnn@9+pca@2/8")
    lines = [
        line(0),
        line(0, images=True),
        other,
        line(0, data="films"),
        line(0, options={"averaging": True, "epochs": 9}),
    ]
    found = summary.groups(lines)
    assert [[one["vector_version"] for one in group] for group in found] == [
        ["", "cnn@1+pca@2/8"],
        ["", "cnn@9+pca@2/8"],
        [""],
        [""],
    ]


def test_two_samples_of_one_name_are_told_apart(tmp_path: Path) -> None:
    """As the hold-outs of a comparison are, whose lines have one name of data."""
    path = tmp_path / "results.jsonl"
    for samples in ("aaaaaaaaaaaa", "bbbbbbbbbbbb"):
        results.append(path, line(samples=samples))
    results.append(path, line(data="films"))
    done = CliRunner().invoke(trainer, ["results", str(path)])
    assert re.findall(r"^(shop|films)(.*) \(default", done.stdout, flags=re.MULTILINE) == [
        ("shop", ", samples aaaaaaaaaaaa"),
        ("shop", ", samples bbbbbbbbbbbb"),
        ("films", ""),
    ]


def test_photos_titles_and_both_are_rows_of_one_table_and_other_vectors_one_of_their_own(tmp_path: Path) -> None:
    """And its heading says which vectors it is of."""
    path, versions = tmp_path / "results.jsonl", ("photo=cnn@1/8", "title=text@2/8", "photo=cnn@1/8, title=text@2/8")
    results.append(path, line())
    for number, one in enumerate((*versions, "photo=cnn@9/8")):
        results.append(path, line(images=True, vector_version=one, auc=0.71 + number / 100))
    done = CliRunner().invoke(trainer, ["results", str(path)])
    headings = re.findall(r"^shop .*$", done.stdout, flags=re.MULTILINE)
    of = ("photo=cnn@1/8, title=text@2/8", "photo=cnn@9/8")
    assert headings == [f"shop (default options) with vectors of {one}, one seed" for one in of]
    assert "The vectors of photo changed din (AUC +0.0100)" in done.stdout
    both, other = json.loads(CliRunner().invoke(trainer, ["results", str(path), "--json"]).stdout)
    assert [row["spaces"] for row in both["rows"]] == [[], ["photo"], ["title"], ["photo", "title"]]
    assert [row["all"]["auc_gain"]["mean"] for row in both["rows"][1:]] == pytest.approx([0.01, 0.02, 0.03])
    assert [row["spaces"] for row in other["rows"]] == [[], ["photo"]]


def test_the_command_prints_draws_and_speaks_json(tmp_path: Path) -> None:
    path, plot = tmp_path / "results.jsonl", tmp_path / "plots" / "out.png"
    for seed in range(3):
        results.append(path, line(seed, auc=0.7 + seed / 100))
        results.append(path, line(seed, images=True, auc=0.75 + seed / 100))
    results.append(path, line(0, data="films", options={"averaging": True, "epochs": 9}))
    done = CliRunner().invoke(trainer, ["results", str(path), f"--plot={plot}"])
    assert done.exit_code == 0, done.output
    said = " ".join(done.output.split())  # a heading may take two lines
    assert "shop (default options) with vectors of cnn@1+pca@2/8, mean ± standard deviation of 3 seeds" in said
    assert "The pictures helped din (AUC +0.0500 ± 0.0000)" in done.output
    assert "films (epochs=9), one seed" in done.output
    assert plot.read_bytes().startswith(b"\x89PNG")
    shop, films = json.loads(CliRunner().invoke(trainer, ["results", str(path), "--json"]).stdout)
    assert [row["images"] for row in shop["rows"]] == [False, True]
    assert films["sentence"] == (
        "Best on the test rows: din ids only (AUC 0.7000). No run with images can be compared with one without."
    )
    assert (shop["doubts"], films["doubts"]) == ([], [])
    poor = {"rows": 100, "positives": 40, "auc": 0.3, "gauc": 0.3, "log_loss": 0.9, "base_log_loss": 0.67}
    results.append(path, line(0, data="poor", test={**line()["test"], "all": poor}))
    done = CliRunner().invoke(trainer, ["results", str(path)])
    assert "din ids only: The AUC on the test part, 0.3000, is below .5" in done.output
    assert re.search(r"a constant, the share of +.*0\.6700", done.output)
    wrong = CliRunner().invoke(trainer, ["results", str(path), f"--plot={tmp_path / 'x.doc'}"])
    assert (wrong.exit_code, "cannot be written" in wrong.output) == (2, True)


def test_models_are_told_apart_by_their_options_and_drawn(tmp_path: Path) -> None:
    lines = [
        line(
            seed,
            images=images,
            auc=0.7 + seed / 100,
            options={"averaging": True, "epochs": 5, "options": {"base": base}},
        )
        for seed in range(2)
        for images in (False, True)
        for base in ("din", "embedding_mlp")
    ]
    (group,) = summary.groups(lines)
    rows = summary.rows(group)
    assert [row["model"] for row in rows] == ["din base=din"] * 2 + ["din base=embedding_mlp"] * 2
    assert all(row["seeds"] == 2 for row in rows)
    nested = line(
        options={"averaging": True, "epochs": 5, "embedding_l2": 1.0, "options": {"light_options": {"hidden": [8, 4]}}}
    )
    assert summary.model_name(nested) == "din light.hidden=8,4 embedding_l2=1.0"
    assert len(summary.groups([*lines, nested, line(options={"averaging": True, "epochs": 6})])) == 2
    figures.save(figures.models_side_by_side(rows), tmp_path / "models.png")
    assert (tmp_path / "models.png").stat().st_size > 10_000
