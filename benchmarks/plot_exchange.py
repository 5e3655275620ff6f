"""Draw the exchange rate of ``examples/fashion``: what a model of purchases gains by a point of recall of its vectors.

    python -m benchmarks.plot_exchange results/fashion.jsonl results/fashion-recall.jsonl --samples d293c98197aa

A point is a model with frozen vectors of one head: its recall@100 of the next new article, in per cent (the lines of
``recall.py``), and what it gains over the same model without vectors, seed by seed, in points of a per cent (the lines
of ``study.py``). The slope of the line through them is the exchange rate.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

# model, the one whose runs without vectors are its own, colour
MODELS = (("din", "simtier", "#2b6cb0"), ("simtier", "simtier", "#c05621"))
METRICS = {"auc": "AUC", "gauc": "GAUC: within each user's rows"}
AT = "100"


@dataclass(frozen=True)
class Point:
    """A head: its recall in per cent, and the gains of a model with its vectors in per cent, one a seed."""

    name: str
    recall: float
    gains: list[float]


def points(lines: list[dict[str, Any]], heads: list[dict[str, Any]], model: str, behind: str, what: str) -> list[Point]:
    """Of the heads that runs of a model have, by recall. ``what``: the samples' hash, the part and the metric."""
    samples, part, metric = what.split("/")
    of_samples = [line for line in lines if line["samples"] == samples and line["options"]["head"] == "frozen"]
    without = {line["seed"]: line for line in of_samples if line["model"] == behind and not line["images"]}
    found = []
    for head in {one["version"]: one for one in heads}.values():
        runs = {
            v["seed"]: v for v in of_samples if (v["model"], v["vector_version"]) == (model, f"photo={head['version']}")
        }
        paired = [seed for seed in sorted(runs) if seed in without]
        gains = [100 * (runs[s]["test"][part][metric] - without[s]["test"][part][metric]) for s in paired]
        if gains:
            found.append(Point(head["name"], 100 * head["recall"]["articles"][AT], gains))
    return sorted(found, key=lambda point: point.recall)


def rate(found: list[Point]) -> tuple[float, float, float]:
    """Slope and start of the line of least squares through the means, and their correlation."""
    recall, gain = np.array([one.recall for one in found]), np.array([np.mean(one.gains) for one in found])
    slope, start = np.polyfit(recall, gain, 1)
    return float(slope), float(start), float(np.corrcoef(recall, gain)[0, 1])


def draw(axis: Any, found: list[Point], model: str, colour: str) -> None:
    """The points of a model, their spread over the seeds, and the line through them."""
    recall = np.array([one.recall for one in found])
    mean = [float(np.mean(one.gains)) for one in found]
    spread = [float(np.std(one.gains, ddof=1)) if len(one.gains) > 1 else 0.0 for one in found]
    slope, start, correlation = rate(found)
    label = f"{model}: {slope:+.2f} a point, r = {correlation:.2f}"
    axis.errorbar(recall, mean, yerr=spread, fmt="o", color=colour, capsize=3, label=label)
    axis.plot(recall, slope * recall + start, color=colour, linewidth=1)


def main() -> None:
    """Read the lines, draw, and print the rates."""
    parser = argparse.ArgumentParser(description="A figure of gain by recall.")
    parser.add_argument("results", type=Path, help="lines of examples/fashion/study.py")
    parser.add_argument("recall", type=Path, help="lines of examples/fashion/recall.py")
    parser.add_argument("--samples", required=True, help="hash of the samples, as the lines have it")
    parser.add_argument("--part", default="unseen_items", help="of the test rows")
    parser.add_argument("--out", type=Path, default=Path("docs/figures/exchange.png"))
    arguments = parser.parse_args()
    lines, heads = (
        [json.loads(line) for line in path.read_text().splitlines()] for path in (arguments.results, arguments.recall)
    )
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2))
    for axis, (metric, title) in zip(axes, METRICS.items(), strict=True):
        axis.axhline(0, color="#4a5568", linewidth=1)
        for model, behind, colour in MODELS:
            found = points(lines, heads, model, behind, f"{arguments.samples}/{arguments.part}/{metric}")
            if len(found) < 3:
                continue
            draw(axis, found, model, colour)
            slope, _, correlation = rate(found)
            print(f"{model}, {metric}: {slope:+.3f} a point of recall@{AT}, r = {correlation:.2f}, {len(found)} heads")
            for one in found:
                print(f"  {one.name}: recall {one.recall:.2f}, gain {np.mean(one.gains):+.2f} ({len(one.gains)} seeds)")
        names = {one["name"]: 100 * one["recall"]["articles"][AT] for one in heads}
        for name, recall in names.items():
            axis.text(recall, axis.get_ylim()[0], f" {name}", rotation=90, fontsize=7, ha="center", va="bottom")
        axis.set_title(f"gain in {title}, per cent", fontsize=10, loc="left")
        axis.set_xlabel(f"recall@{AT} of the next new article, per cent", fontsize=9)
        axis.grid(color="#e2e8f0")
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
        axis.legend(fontsize=8, frameon=False, loc="upper left")
    figure.tight_layout()
    figure.savefig(arguments.out, dpi=120)


if __name__ == "__main__":
    main()
