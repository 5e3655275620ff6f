"""The MovieLens example on a part of the real ratings and posters, from the commands to a table of results."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path

import pytest
from conftest import ROOT, DaemonProcess, run_command

from crossmedia.features.reading.samples import Samples

pytestmark = pytest.mark.data
POSTERS, USERS = 300, 150


@pytest.fixture(scope="module")
def prepared(test_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ratings of some users, and the posters of the movies that they rated most; the rest have none."""
    folder = tmp_path_factory.mktemp("movielens")
    with gzip.open(test_data / "movielens_small3" / "ratings.csv.gz", "rt") as file:
        header, *lines = file.read().splitlines()
    users = list(dict.fromkeys(line.split(",")[0] for line in lines))[:USERS]
    kept = [line for line in lines if line.split(",")[0] in set(users)]
    (folder / "ratings.csv").write_text("\n".join([header, *kept]) + "\n")
    wanted = {f"{movie}.jpg" for movie, _ in Counter(line.split(",")[1] for line in kept).most_common(POSTERS)}
    with tarfile.open(test_data / "movielens_posters" / "posters_128x192_q80.tar") as tar:
        tar.extractall(folder / "posters", [m for m in tar.getmembers() if Path(m.name).name in wanted], filter="data")
    movies = test_data / "movielens_small3" / "movies.csv"
    options = [f"--ratings={folder / 'ratings.csv'}", f"--movies={movies}", f"--posters={folder / 'posters'}"]
    script = [sys.executable, str(ROOT / "examples" / "movielens" / "prepare.py"), *options, f"--out={folder / 'ml'}"]
    done = subprocess.run(script, capture_output=True, text=True, check=True)
    assert "of them with a poster" in done.stdout
    return folder


def test_the_commands_of_the_example(prepared: Path) -> None:
    store, catalogue = prepared / "store", prepared / "posters"
    made = run_command("imgserver", "precompute", f"--store={store}", f"--catalogue={catalogue}", "--dim=16", "--json")
    assert json.loads(made.stdout)["embedded"] > 0.9 * POSTERS
    results = prepared / "results.jsonl"
    daemon = DaemonProcess(store, catalogue)
    try:
        for name in ("samples", "held_out"):
            samples = prepared / name
            run_command("features", "build", str(prepared / "ml" / f"{name}.toml"), f"--out={samples}")
            compare = ["trainer", "compare", f"--samples={samples}", f"--server={daemon.address}", "--models=din"]
            options = ["--seeds=1", "--epochs=3", f"--results={results}", f"--out={prepared / 'runs' / name}"]
            run_command(*compare, *options)
            page, runs = prepared / f"{name}.html", prepared / "runs" / name
            run_command("trainer", "report", str(runs), f"--server={daemon.address}", f"--out={page}")
            assert ("AUC, held out" in page.read_text()) == (name == "held_out")
    finally:
        daemon.stop()
    opened = Samples(prepared / "held_out")
    assert opened.has_held_out
    assert sorted(opened.vocabulary.values["action"].to_pylist()) == ["disliked", "liked"]
    assert set(opened.text_columns) == {"genres", "title"}
    plain, held_out = json.loads(run_command("trainer", "results", str(results), "--json").stdout)
    models = [row for row in plain["rows"] if not row["baseline"]]
    assert [row["images"] for row in models] == [False, True]
    assert [row["model"] for row in plain["rows"] if row["baseline"]] == ["constant", "item mean", "item + user mean"]
    assert all(row["all"]["auc"]["mean"] > 0.6 for row in models)
    assert "held_out_items" not in plain["rows"][0]
    assert held_out["rows"][0]["held_out_items"]["rows"] > 300
    assert "on items held out entirely" in held_out["sentence"]
