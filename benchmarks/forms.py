"""What does an exported model take as pt2, as native code and as ONNX: to make, to load, and to score a request?

    python -m benchmarks.forms

DIN with pictures and Rocket's light net, trained for a moment (their weights do not matter here), 200 candidates and 50
behaviours, one thread. The forms are asked in turn, request by request, so that what else the machine does meets all.
``score`` is a whole request, from raw values to probabilities; ``net`` is the program alone.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.fetch import make_store, make_vectors
from benchmarks.parts import daemon, finish
from benchmarks.scoring import IMAGES
from benchmarks.serving_setup import BEHAVIOURS, CANDIDATES, NOW, Asked, requests
from benchmarks.train import make_samples
from crossmedia import Scorer, export_model
from crossmedia.trainer.evaluate import Predictor
from crossmedia.trainer.fit import FitConfig, fit
from crossmedia.trainer.runs.sealed import file_digest
from crossmedia.trainer.tensors import SpaceVectors, TensorBatch

FORMS = ("pt2", "aoti", "onnx")
MODELS: dict[str, dict[str, Any]] = {
    "din": {"model": "din"},
    "light": {"model": "rocket", "options": {"light": "embedding_mlp", "booster": "din"}},
}


class Timed:
    """A predictor that notes how long it takes."""

    def __init__(self, predictor: Predictor):
        self._predictor, self.ms = predictor, [0.0]

    def probabilities(self, batch: TensorBatch, vectors: SpaceVectors) -> torch.Tensor:
        """As of the predictor."""
        started = time.perf_counter()
        found = self._predictor.probabilities(batch, vectors)
        self.ms.append(1000 * (time.perf_counter() - started))
        return found


def seconds(work: Any) -> tuple[float, Any]:
    """How long it takes, and what it gives."""
    started = time.perf_counter()
    found = work()
    return time.perf_counter() - started, found


def asked_in_turn(scorers: dict[str, Scorer], every: list[Asked], rounds: int) -> dict[str, dict[str, float]]:
    """Medians of each form in ms, and how far its scores are from those of the first."""
    nets, taken, apart = {}, {name: list[float]() for name in scorers}, dict.fromkeys(scorers, 0.0)
    for name, scorer in scorers.items():
        nets[name] = scorer._predictor = Timed(scorer._predictor)
    for number in range(rounds):
        expected = None
        for one in every:
            for name in [*scorers][:: 1 if number % 2 else -1]:
                took, found = seconds(lambda name=name, one=one: scorers[name].score(one.user, one.candidates, NOW))
                taken[name].append(1000 * took)
        for name, scorer in scorers.items():
            found = scorer.score(every[0].user, every[0].candidates, NOW)
            expected = found if expected is None else expected
            apart[name] = max(apart[name], float(np.abs(found - expected).max()))
    return {
        name: {"score_ms": statistics.median(taken[name]), "net_ms": statistics.median(nets[name].ms[1:]), "apart": far}
        for name, far in apart.items()
    }


def main() -> None:
    """Measure, and print a table and the line of JSON."""
    parser = argparse.ArgumentParser(description="Exported models in each form.")
    parser.add_argument("--rounds", type=int, default=20, help="of 20 requests for each form")
    parser.add_argument("--models", default="din,light", help="which, separated by commas")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    table = Table("", "export s", "MB", "load s", "score ms", "net ms", "apart", title=f"{CANDIDATES} candidates, p50")
    parts: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        folder = Path(temporary)
        make_store(folder / "store", make_vectors(IMAGES))
        make_samples(folder / "data", BEHAVIOURS, 6_000, IMAGES)
        images, _ = stack.enter_context(daemon(folder / "store"))
        for model in arguments.models.split(","):
            run = folder / model
            config = FitConfig(str(folder / "data" / "samples"), str(run), server=images, epochs=1)
            fit(replace(config, **MODELS[model]))
            scorers = {"run": Scorer.load(run, server=images, cache_bytes=1 << 28, items="")}
            made: dict[str, dict[str, float]] = {"run": {}}
            for form in FORMS:
                out = folder / f"{model}.{form}"
                export_s, _ = seconds(lambda run=run, out=out, form=form: export_model(run, out=out, form=form))
                trusted = [file_digest(out)]
                load_s, scorers[form] = seconds(
                    lambda out=out, trusted=trusted: Scorer.load(
                        out, server=images, cache_bytes=1 << 28, items="", trust_native=trusted
                    )
                )
                made[form] = {"export_s": export_s, "mb": out.stat().st_size / 1e6, "load_s": load_s}
            for form, found in asked_in_turn(scorers, requests(20), arguments.rounds).items():
                parts[f"{model} {form}"] = told = made[form] | found
                row = [told.get(key) for key in ("export_s", "mb", "load_s", "score_ms", "net_ms", "apart")]
                table.add_row(f"{model} {form}", *("" if one is None else f"{one:.3g}" for one in row))
    Console(width=100).print(table)
    ratios = {
        f"{model}_{form}": parts[f"{model} pt2"]["score_ms"] / parts[f"{model} {form}"]["score_ms"]
        for model in arguments.models.split(",")
        for form in FORMS[1:]
    }
    finish("forms", ratios, parts=parts, cores=os.cpu_count(), load=[round(one, 1) for one in os.getloadavg()])


if __name__ == "__main__":
    main()
