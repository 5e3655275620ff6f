"""Draw what pictures are worth, from the lines of ``benchmarks.worth``: the gain over ids only, seed by seed.

python -m benchmarks.plot_worth results/worth.jsonl --out docs/figures/worth.png
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

from benchmarks.worth import RECIPES

# name of the data, part of its test rows, what it is called
ROWS = (
    ("grocery", "all", "simulated clicks on grocery photos, all rows"),
    ("grocery", "unseen_items", "… items never shown before"),
    ("movielens", "all", "MovieLens and posters, all rows"),
    ("movielens-held-out", "held_out_items", "… movies that nobody has rated"),
)
SIDES = (("frozen", "frozen vectors", "#2b6cb0", 0.12), ("learn", "a head that learns", "#c05621", -0.12))


def is_of(line: dict[str, Any], images: bool, head: str) -> bool:
    """Whether a line is of DIN with this side's recipe and the vectors as they are."""
    made_with, recipe = line["options"], RECIPES.get(line["data"], {}).get(images, {})
    plain = line["model"] == "din" and line["images"] == images and made_with["head"] == head
    on_time = made_with["max_staleness"] == 0 and "#" not in line["vector_version"]
    own = not made_with.get("warm_start") and "+aligned@" not in line["vector_version"]  # no head of 'trainer align'
    return (
        plain
        and on_time
        and own
        and not made_with.get("averaging")
        and made_with["id_dropout"] == recipe.get("id_dropout", 0.0)
    )


def gains(lines: list[dict[str, Any]], data: str, part: str, metric: str, head: str) -> list[float]:
    """With pictures less without, of runs with one seed on the same rows and the newest vectors.

    They are of one hold-out, that with the most seeds.
    """
    of_data = [line for line in lines if line["data"] == data]
    ids = {(line["samples"], line["seed"]): line for line in of_data if is_of(line, False, "frozen")}
    found: dict[str, dict[int, float]] = {}
    for line in sorted(of_data, key=lambda line: str(line["date"])):
        pair = ids.get((line["samples"], line["seed"]))
        if is_of(line, True, head) and pair is not None:
            found.setdefault(line["samples"], {})[line["seed"]] = (
                line["test"][part][metric] - pair["test"][part][metric]
            )
    return list(max(found.values(), key=len).values())


def main() -> None:
    """Read the lines, draw."""
    parser = argparse.ArgumentParser(description="A figure of what pictures are worth.")
    parser.add_argument("results", type=Path, help="lines of benchmarks.worth")
    parser.add_argument("--out", type=Path, default=Path("worth.png"))
    arguments = parser.parse_args()
    lines = [json.loads(line) for line in arguments.results.read_text().splitlines()]
    figure, axes = plt.subplots(1, 2, figsize=(11, 3.2), sharey=True)
    for axis, metric, title in zip(axes, ("auc", "gauc"), ("AUC", "GAUC: within each user's rows"), strict=True):
        axis.axvline(0, color="#4a5568", linewidth=1)
        for place, (data, part, _) in enumerate(ROWS):
            for head, label, colour, shift in SIDES:
                found = gains(lines, data, part, metric, head)
                mean, spread = float(np.mean(found)), float(np.std(found, ddof=1))
                axis.errorbar(mean, place - shift, xerr=spread, fmt="o", color=colour, capsize=3, label=label)
                beside = place - shift + (-0.08 if shift > 0 else 0.26)
                axis.text(mean, beside, f"{mean:+.4f}", fontsize=7, ha="center", color=colour)
        axis.set_title(f"gain in {title}", fontsize=10, loc="left")
        axis.grid(axis="x", color="#e2e8f0")
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
        axis.margins(y=0.15)
    axes[0].set_yticks(range(len(ROWS)), [text for _, _, text in ROWS], fontsize=9)
    axes[0].invert_yaxis()
    handles, labels = axes[0].get_legend_handles_labels()
    named = dict(zip(labels, handles, strict=True))
    axes[1].legend(named.values(), named.keys(), fontsize=8, loc="lower right", frameon=False)
    figure.tight_layout()
    figure.savefig(arguments.out, dpi=120)


if __name__ == "__main__":
    main()
