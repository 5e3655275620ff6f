"""Runs in the peers' environment: trains a model and writes what came out, or trains steps when it is told to.

python -m benchmarks.ctr_peers.worker train --peer fuxi --model din --samples samples --out result.json
python -m benchmarks.ctr_peers.worker rounds --peer deepctr --model din --samples samples --steps 20
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch

from benchmarks.ctr_peers.arrays import Columns, read, read_steps
from benchmarks.ctr_peers.peer import BATCH, Peer, Tuned
from crossmedia.features.reading.samples import Samples

PEERS = {"fuxi": "Fuxi", "deepctr": "DeepCTR"}
MODELS = ("lr", "din", "dien")
THREADS = 2


def make(arguments: argparse.Namespace, columns: Columns) -> Peer:
    """The model that the arguments name; its library is imported here, and no other."""
    if arguments.model != "lr" and not columns.history:
        raise SystemExit(f"{arguments.model} needs behaviours; the samples in {arguments.samples} have none.")
    tuned = Tuned(arguments.learning_rate, arguments.regularisation)
    module = importlib.import_module(f"benchmarks.ctr_peers.{arguments.peer}")
    peer: Peer = getattr(module, PEERS[arguments.peer])(arguments.model, columns, tuned, arguments.seed)
    return peer


def train(arguments: argparse.Namespace) -> None:
    """Train, predict the test part, and write both files."""
    from benchmarks.ctr_peers import training

    samples = Samples(arguments.samples)
    columns = Columns.of(samples)
    rows, beside = read(samples, columns, "train"), read(samples, columns, "validation")
    peer = make(arguments, columns)
    result = training.train(peer, rows, beside, arguments.seed)
    test = read(samples, columns, "test")
    found = training.predict(peer, peer.prepare(test), len(test))
    probabilities = arguments.out.with_suffix(".npy")
    np.save(probabilities, found)
    result["probabilities"] = str(probabilities)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")


def rounds(arguments: argparse.Namespace, to: TextIO) -> None:
    """Answer each line ``round`` with what the steps took; the rows are those of our trainer's first steps."""
    samples = Samples(arguments.samples)
    columns = Columns.of(samples)
    rows = read_steps(samples, columns, arguments.steps, BATCH, arguments.seed)
    peer = make(arguments, columns)
    prepared = peer.prepare(rows)
    places = [np.arange(start, min(start + BATCH, len(rows))) for start in range(0, len(rows), BATCH)]
    peer.model.train()

    def work() -> dict[str, float]:
        cpu, started = time.process_time(), time.perf_counter()
        for batch in places:
            peer.step(peer.batch(prepared, batch))
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return {"items": len(rows), "seconds": seconds, "cpu": cpu, "peak": peak}

    def say(what: dict[str, Any]) -> None:
        print(json.dumps(what), file=to, flush=True)

    work()
    say({"ready": f"{arguments.peer} {arguments.model}", "rows": len(rows)})
    for line in sys.stdin:
        if line.strip() != "round":
            raise SystemExit(f"{line.strip()!r} is not a command; there is: round.")
        say(work())


def main() -> None:
    """Run one command."""
    parser = argparse.ArgumentParser(description="Train a peer's model on our samples.")
    commands = parser.add_subparsers(dest="command", required=True)
    for command in ("train", "rounds"):
        options = commands.add_parser(command)
        options.add_argument("--peer", choices=PEERS, required=True)
        options.add_argument("--model", choices=MODELS, required=True)
        options.add_argument("--samples", required=True)
        options.add_argument("--seed", type=int, default=0)
        options.add_argument("--learning-rate", type=float, default=1e-3)
        options.add_argument("--regularisation", type=float, help="the library's default when it is not given")
        if command == "train":
            options.add_argument("--out", type=Path, required=True, help="JSON file; probabilities go beside it, .npy")
        else:
            options.add_argument("--steps", type=int, default=20, help="batches a round")
    arguments = parser.parse_args()
    # Libraries print what they like: it goes to standard error, and standard output stays ours.
    to = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    if arguments.command == "train":  # with as many threads as torch takes by itself
        train(arguments)
    else:
        torch.set_num_threads(THREADS)
        rounds(arguments, to)


if __name__ == "__main__":
    main()
