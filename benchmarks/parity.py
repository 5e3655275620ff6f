"""Are our LR, DIN and DIEN as good as those of DeepCTR-Torch and FuxiCTR, on the same rows?

    CROSSMEDIA_TEST_DATA=… python -m benchmarks.parity

MovieLens (a rating of 4 or more is a positive, the last 20 % of each user are test), Amazon Beauty by the protocol of
DIN's repository (the last purchase of each user is test, one negative for each purchase, drawn from what the user never
bought), and H&M purchases as ``examples/fashion`` has them (the newest fifth is test, four negatives for each purchase,
of what others bought within a week). Every side reads the same samples: same rows, ids, words, kinds and ages of
behaviours; embeddings of 16, MLP 200-80, Adam (ours: FTRL for LR), batches of 1,024, at most 20 epochs, stopped by the
AUC of the validation part. Every side gets a grid of 4 points, step size times regularisation, chosen by the AUC of the
validation part with seed 0; then 5 seeds. DIEN, which is slow at the peers, is trained on every fourth user, ours too.
Images are off everywhere.

What has a line in the results file is not run again; ``--table`` only prints. The peers run in an environment of their
own, ``.venv-peers``, which the first run makes.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.ctr_peers.process import train_peer
from benchmarks.parts import finish
from crossmedia.features.reading.samples import Samples
from crossmedia.features.schema import load_schema
from crossmedia.features.writing.build import build_samples
from crossmedia.trainer.fit import FitConfig, fit
from crossmedia.trainer.former import as_then
from crossmedia.trainer.metrics import auc, gauc, log_loss
from crossmedia.trainer.report.summary import mean_std
from crossmedia.trainer.report.tables import number
from crossmedia.trainer.runs import results

ROOT = Path(__file__).resolve().parent.parent
SIDES = {"crossmedia": "CrossMedia", "deepctr": "DeepCTR-Torch", "fuxi": "FuxiCTR"}
MODELS = ("lr", "din", "dien")
SHARE_OF_DIEN = 4  # every so manieth user
# Step sizes, and regularisation in each side's own scale: off or its default, and what its examples use. Our LR keeps
# its default L1; its other choice is what a behaviour counts, for the libraries' LRs differ in that.
Points = tuple[tuple[float, ...], tuple[float, ...]]
LINEAR: dict[str, Points] = {
    "crossmedia": ((0.03, 0.1), (1.0, 0.5)),  # alpha of FTRL and bag_power
    "deepctr": ((1e-2, 1e-3), (0.0, 1e-5)),  # of a loss that is a sum over rows
    "fuxi": ((1e-2, 1e-3), (0.0, 1e-6)),
}
NETS: dict[str, Points] = {
    "crossmedia": ((1e-3, 3e-4), (0.1, 1.0)),  # lambda of the mini-batch aware regularisation
    "deepctr": ((1e-3, 3e-4), (1e-6, 1e-5)),
    "fuxi": ((1e-3, 3e-4), (0.0, 5e-3)),
}
KEY = ("data", "samples", "side", "model", "step", "regularisation", "seed")


def prepare(folder: Path, data: Path, names: list[str]) -> dict[str, Path]:
    """Samples of some data sets, whole and of every fourth user, from the logs."""
    made = {"movielens": _movielens, "beauty": _beauty, "fashion": _fashion}
    return {f"{name}{part}": made[name](folder, data, part) for name in names for part in ("", "-quarter")}


def _logs(example: str, **paths: Path) -> None:
    """The logs and the schema of an example, by its own script."""
    script = str(ROOT / "examples" / example / "prepare.py")
    subprocess.run(
        [sys.executable, script, *(f"--{name}={path}" for name, path in paths.items())], check=True, stdout=2
    )


def _movielens(folder: Path, data: Path, part: str) -> Path:
    posters = folder / "posters"
    posters.mkdir(exist_ok=True)
    lists = subprocess.run(
        ["tar", "-tf", data / "movielens_posters" / "posters_128x192_q80.tar"],
        capture_output=True,
        text=True,
        check=True,
    )
    for name in lists.stdout.split():  # names suffice: no image is looked at
        if name.endswith(".jpg"):
            (posters / Path(name).name).touch()
    ratings, logs, samples = (
        folder / f"ratings{part}.csv",
        folder / f"movielens{part}-logs",
        folder / f"movielens{part}",
    )
    with (
        gzip.open(data / "movielens_small3" / "ratings.csv.gz", "rt") as source,
        open(ratings, "w", newline="") as out,
    ):
        rows = csv.DictReader(source)
        writer = csv.DictWriter(out, rows.fieldnames or [])
        writer.writeheader()
        writer.writerows(row for row in rows if not part or int(row["userId"]) % SHARE_OF_DIEN == 0)
    _logs("movielens", ratings=ratings, movies=data / "movielens_small3" / "movies.csv", posters=posters, out=logs)
    build_samples(load_schema(logs / "samples.toml"), samples, overwrite=True)
    return samples


def _beauty(folder: Path, data: Path, part: str) -> Path:
    sequences, logs, samples = folder / f"beauty{part}.txt", folder / f"beauty{part}-logs", folder / f"beauty{part}"
    lines = (data / "amazon_sequences" / "Beauty.txt").read_text().splitlines(keepends=True)
    sequences.write_text("".join(lines[:: SHARE_OF_DIEN if part else 1]))
    attributes = data / "amazon_sequences" / "Beauty_item2attributes.json"
    _logs("amazon", sequences=sequences, attributes=attributes, out=logs)
    schema = (logs / "samples.toml").read_text()
    (logs / "samples.toml").write_text(schema[: schema.index("[split]")] + '[split]\nmethod = "leave_one_out"\n')
    build_samples(load_schema(logs / "samples.toml"), samples, overwrite=True)
    return samples


def _fashion(folder: Path, data: Path, part: str) -> Path:
    source, logs, samples = folder / f"hm{part}", folder / f"fashion{part}-logs", folder / f"fashion{part}"
    source.mkdir(exist_ok=True)
    (source / "articles.csv.gz").write_bytes((data / "hm_fashion" / "articles.csv.gz").read_bytes())
    users: dict[str, int] = {}
    with (
        gzip.open(data / "hm_fashion" / "purchases.csv.gz", "rt", newline="") as log,
        gzip.open(source / "purchases.csv.gz", "wt", newline="") as out,
    ):
        rows = csv.DictReader(log)
        writer = csv.DictWriter(out, rows.fieldnames or [])
        writer.writeheader()
        numbered = ((row, users.setdefault(row["user"], len(users))) for row in rows)
        writer.writerows(row for row, user in numbered if not part or user % SHARE_OF_DIEN == 0)
    _logs("fashion", hm=source, out=logs)
    schema = (logs / "samples.toml").read_text()
    bare = re.sub(r"\n\[vectors\.\w+\]\nkey = .*\n", "", schema)  # ids of images are a column, as in the other sets
    (logs / "samples.toml").write_text(bare)
    build_samples(load_schema(logs / "samples.toml"), samples, overwrite=True)
    return samples


def run(side: str, model: str, samples: Samples, step: float, regularisation: float, seed: int) -> dict[str, Any]:
    """Train once; metrics of the test part, AUC of the validation part, and what it took."""
    with tempfile.TemporaryDirectory() as out:
        if side == "crossmedia":
            settings: dict[str, Any] = (
                {"options": {"alpha": step, "bag_power": regularisation}}
                if model == "lr"
                else {"learning_rate": step, "embedding_l2": regularisation}
            )
            if model == "dien":
                # No auxiliary loss, as both libraries have it; batch normalisation and ReLU, as FuxiCTR's.
                settings["options"] = {"auxiliary": 0.0, "activation": "batch_norm"}
            settings = as_then(model, settings)  # the peers' nets have no softmax, and their weights are not averaged
            config = FitConfig(str(samples.folder), out, model, images=False, seed=seed, epochs=20, **settings)
            result = fit(config)
            validation, train = result["validation"]["all"]["auc"], result["train"]
            test = {name: result["test"]["all"][name] for name in ("auc", "gauc", "log_loss")}
            parameters, speed, epochs = train["parameters"], train["samples_per_s"], train["best_epoch"]
        else:
            found = train_peer(side, model, samples.folder, Path(out) / "r.json", seed, step, regularisation)
            probabilities = np.load(found["probabilities"])
            table = samples.frame("test", ["label", "user_id"])
            labels, users = (np.asarray(table[name].combine_chunks()) for name in ("label", "user_id"))
            test = {
                "auc": auc(labels, probabilities),
                "gauc": gauc(labels, probabilities, users).value,
                "log_loss": log_loss(labels, probabilities),
            }
            validation = max(found["curve"])
            parameters, speed, epochs = found["parameters"], found["samples_per_s"], found["best_epoch"]
    return {
        **{"validation_auc": validation, "test": test},
        **{"parameters": parameters, "samples_per_s": speed, "best_epoch": epochs, "commit": results.code_version()},
    }


class Lines:
    """The results file: one line a run, by its key."""

    def __init__(self, path: Path):
        self.path = path

    def read(self) -> dict[str, dict[str, Any]]:
        """Lines by key."""
        text = self.path.read_text() if self.path.exists() else ""
        lines = [json.loads(row) for row in text.splitlines()]
        return {json.dumps([line[name] for name in KEY]): line for line in lines}

    def get(
        self, data: str, samples: Samples, side: str, model: str, point: tuple[float, float], seed: int
    ) -> dict[str, Any]:
        """The line of a run, which is trained when it has none."""
        key = dict(zip(KEY, (data, samples.hash, side, model, *point, seed), strict=True))
        known = self.read().get(json.dumps(list(key.values())))
        if known is None:
            print(f"{data} {model} {side} {point} seed {seed}", file=sys.stderr, flush=True)
            known = {**key, **run(side, model, samples, *point, seed)}
            results.append(self.path, known)
        return known


def main() -> None:
    """Run what is missing, and print."""
    parser = argparse.ArgumentParser(description="Accuracy beside DeepCTR-Torch and FuxiCTR.")
    parser.add_argument("--results", type=Path, default=Path("results/parity.jsonl"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--data", default="beauty,movielens,fashion")
    parser.add_argument("--table", action="store_true", help="print what there is")
    parser.add_argument("--quick", action="store_true", help="LR on Beauty with one seed")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.models, arguments.data, arguments.seeds = "lr", "beauty", 1
    lines = Lines(arguments.results)
    if not arguments.table:
        where = os.environ.get("CROSSMEDIA_TEST_DATA")
        if not where:
            raise SystemExit(
                "CROSSMEDIA_TEST_DATA must name the folder that has movielens_small3, amazon_sequences and hm_fashion."
            )
        with tempfile.TemporaryDirectory() as temporary:
            folders = prepare(Path(temporary), Path(where), arguments.data.split(","))
            for model in arguments.models.split(","):
                for name in arguments.data.split(","):
                    data = f"{name}-quarter" if model == "dien" else name
                    samples = Samples(folders[data])
                    for side in SIDES:
                        steps, strengths = (LINEAR if model == "lr" else NETS)[side]
                        points = [(step, strength) for step in steps for strength in strengths]
                        tried = [lines.get(data, samples, side, model, point, 0) for point in points]
                        best = points[int(np.argmax([line["validation_auc"] for line in tried]))]
                        for seed in range(arguments.seeds):
                            lines.get(data, samples, side, model, best, seed)
    show(lines.read())


def show(lines: dict[str, dict[str, Any]]) -> None:
    """The table, and the differences in standard deviations."""
    table = Table(title="Test part, mean ± standard deviation over the seeds", title_justify="left")
    for heading in ("data", "model", "side", "point", "seeds", "AUC", "GAUC", "log loss", "samples/s", "parameters"):
        table.add_column(heading, no_wrap=True)
    ratios: dict[str, float] = {}
    rows = []
    for data, model in dict.fromkeys((line["data"], line["model"]) for line in lines.values()):
        ours: dict[str, float | None] | None = None
        for side, title in SIDES.items():
            mine = [v for v in lines.values() if (v["data"], v["model"], v["side"]) == (data, model, side)]
            if not mine:
                continue
            first = max((line for line in mine if line["seed"] == 0), key=lambda line: float(line["validation_auc"]))
            chosen = [v for v in mine if all(v[n] == first[n] for n in ("step", "regularisation"))]
            found = {name: mean_std([line["test"][name] for line in chosen]) for name in ("auc", "gauc", "log_loss")}
            row = {"data": data, "model": model, "side": side, "seeds": len(chosen), **found}
            row |= {name: first[name] for name in ("step", "regularisation", "parameters")}
            row["samples_per_s"] = float(np.median([line["samples_per_s"] for line in chosen]))
            rows.append(row)
            point = f"{first['step']:g}, {first['regularisation']:g}"
            metrics = [number(found[name]) for name in ("auc", "gauc", "log_loss")]
            size = (f"{row['samples_per_s']:,.0f}", f"{first['parameters']:,}")
            table.add_row(data, model, title, point, str(len(chosen)), *metrics, *size)
            if side == "crossmedia":
                ours = found["auc"]
            elif ours and ours["mean"] is not None and found["auc"] and found["auc"]["mean"] is not None:
                spread = max(ours["std"] or 0.0, found["auc"]["std"] or 0.0) or float("nan")
                ratios[f"{data}_{model}_{side}"] = (ours["mean"] - found["auc"]["mean"]) / spread
    Console(width=170).print(table)
    print("Ratios: our AUC above theirs, in standard deviations over the seeds (the larger of the two sides').")
    finish("parity", ratios, rows=rows)


if __name__ == "__main__":
    main()
