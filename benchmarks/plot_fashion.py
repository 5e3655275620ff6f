"""Draw what photos add to all attributes of H&M purchases, from the lines of ``examples/fashion/study.py --today``.

    python -m benchmarks.plot_fashion results/fashion.jsonl --samples e8ed7dadf92e --out docs/figures/fashion.png

A point is a model with one kind of vectors: the mean, over seeds, of what it gains over the same net without vectors,
and their standard deviation; a ring is one seed alone.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

PARTS = {"unseen_items": "unseen articles", "unseen_products": "unseen products", "seen_items": "warm rows"}
METRICS = {"auc": "AUC", "gauc": "GAUC: within each user's rows"}
MODELS = {"simtier": ("SimTier", "o"), "din": ("DIN", "s")}
# what the vectors are -> its words, its colour
KINDS = {
    "frozen": ("frozen", "#2b6cb0"),
    "aligned": ("aligned", "#2f855a"),
    "learned": ("learned", "#c05621"),
    "aligned, learned": ("aligned, then learned", "#6b46c1"),
}
WITHOUT = "simtier"  # the model whose runs without vectors are DIN's, too


def kind_of(line: dict[str, Any]) -> str:
    """Which of ``KINDS`` the vectors of a line are; empty: none of them."""
    version, options = line["vector_version"], line["options"]
    if not version.startswith("photo=efficientnet") or "," in version:
        return ""
    if options["head"] == "learn":
        return "aligned, learned" if options["warm_start"] else "learned"
    return "aligned" if "+aligned@" in version else "frozen" if version.endswith("/64") else ""


def gains(lines: list[dict[str, Any]], model: str, kind: str, part: str, metric: str) -> list[float]:
    """Of the seeds that both a model with vectors of a kind, and the net without vectors, have."""
    base = {line["seed"]: line for line in lines if line["model"] == WITHOUT and not line["images"]}
    own = {line["seed"]: line for line in lines if line["model"] == model and kind_of(line) == kind}
    return [own[s]["test"][part][metric] - base[s]["test"][part][metric] for s in sorted(own.keys() & base.keys())]


def draw(axis: Any, lines: list[dict[str, Any]], metric: str) -> None:
    """A row for each model and part, in it a point for each kind of vectors that has runs."""
    axis.axvline(0, color="#4a5568", linewidth=1)
    for row, (model, part) in enumerate((model, part) for model in MODELS for part in PARTS):
        for number, (kind, (label, colour)) in enumerate(KINDS.items()):
            if not (found := gains(lines, model, kind, part, metric)):
                continue
            place = row + 0.2 * (number - 1.5)
            filled = len(found) > 1
            spread = float(np.std(found, ddof=1)) if filled else None
            mark = {"marker": MODELS[model][1], "color": colour, "markerfacecolor": colour if filled else "white"}
            axis.errorbar(np.mean(found), place, xerr=spread, linestyle="", capsize=3, label=label, **mark)
    axis.grid(axis="x", color="#e2e8f0")
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8)
    axis.margins(y=0.08)


def main() -> None:
    """Read the lines, draw."""
    parser = argparse.ArgumentParser(description="A figure of what photos add to attributes.")
    parser.add_argument("results", type=Path, help="lines of examples/fashion/study.py")
    parser.add_argument("--samples", required=True, help="hash of the samples, as the lines have it")
    parser.add_argument("--out", type=Path, default=Path("docs/figures/fashion.png"))
    arguments = parser.parse_args()
    lines = [json.loads(line) for line in arguments.results.read_text().splitlines()]
    lines = [line for line in lines if line["samples"] == arguments.samples and line["options"].get("averaging")]
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.4), sharey=True)
    for axis, (metric, title) in zip(axes, METRICS.items(), strict=True):
        draw(axis, lines, metric)
        axis.set_title(f"gain over ids + attributes in {title}", fontsize=10, loc="left")
    names = [f"{name}, {part}" for name, _ in MODELS.values() for part in PARTS.values()]
    axes[0].set_yticks(range(len(names)), names, fontsize=9)
    axes[0].invert_yaxis()
    named = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    axes[1].legend(named.values(), named.keys(), fontsize=8, loc="lower left", frameon=False)
    figure.tight_layout()
    figure.savefig(arguments.out, dpi=120)


if __name__ == "__main__":
    main()
