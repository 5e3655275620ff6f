"""Draw what the white box finds, from the last line of ``benchmarks.whitebox``.

python -m benchmarks.plot_whitebox results/whitebox.json --out docs/figures/whitebox.png
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

HIDDEN, STRICT = "concepts, hidden anchors", "concepts, no anchors at all"
COLOURS = {"warmth": "#c05621", "brightness": "#b7950b", "greenness": "#2f855a"}


def truth(axis: Any, told: dict[str, Any]) -> None:
    """The picture's part of the logit beside the true one, of photos that training never saw."""
    for name, colour, label in ((HIDDEN, "#2b6cb0", "probes stand for them"), (STRICT, "#a0aec0", "nothing does")):
        model, true = np.array(told["late"][name]).T
        axis.scatter(true, model, s=12, color=colour, label=f"{label}: {told['truth'][name]:.2f}")
    axis.set_xlabel("true effect of the photo, logits", fontsize=8)
    axis.set_ylabel("what the model's picture adds", fontsize=8)
    axis.set_title("new photos, anchors hidden", fontsize=10, loc="left")
    axis.legend(fontsize=8, frameon=False)


def interventions(axis: Any, told: dict[str, Any]) -> None:
    """How far the right concept moves, and the farthest of the two others."""
    moved = told["pictures"][HIDDEN]["moved"]
    for place, one in enumerate(moved):
        axis.barh(place - 0.2, one["own"], 0.35, color=COLOURS[one["factor"]])
        axis.barh(place + 0.2, one["own"] * one["others"], 0.35, color="#a0aec0")
        axis.text(one["own"], place - 0.2, f" {one['right']:.1%} the right way", fontsize=8, va="center")
    axis.set_yticks(range(len(moved)), [f"more {one['factor']}" for one in moved], fontsize=9)
    axis.invert_yaxis()
    axis.set_xlim(0, 1.2)
    axis.set_xlabel("the concept moves, s.d.; grey: the most that another of the three does", fontsize=8)
    axis.set_title("a photo is rendered with 1 s.d. more", fontsize=10, loc="left")


def uplift(axis: Any, told: dict[str, Any]) -> None:
    """What rendered photos would sell, by the model and in truth."""
    found = told["pictures"][HIDDEN]
    model, true = np.array(found["points"]).T
    axis.scatter(true, model, s=6, color="#2b6cb0")
    ends = np.array([true.min(), true.max()])
    axis.plot(ends, ends, color="#4a5568", linewidth=1)
    axis.set_xlabel("true change of the logit", fontsize=8)
    axis.set_ylabel("what the model says", fontsize=8)
    axis.set_title(f"what if: slope {found['slope']:.2f}", fontsize=10, loc="left")


def main() -> None:
    """Read the line, draw."""
    parser = argparse.ArgumentParser(description="A figure of what the white box finds.")
    parser.add_argument("results", type=Path, help="what benchmarks.whitebox printed; its last line counts")
    parser.add_argument("--out", type=Path, default=Path("whitebox.png"))
    arguments = parser.parse_args()
    told = json.loads(arguments.results.read_text().strip().splitlines()[-1])
    figure, axes = plt.subplots(1, 3, figsize=(13, 3.8))
    for axis, draw in zip(axes, (truth, interventions, uplift), strict=True):
        draw(axis, told)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
        axis.grid(color="#e2e8f0")
        axis.set_axisbelow(True)
    figure.tight_layout()
    figure.savefig(arguments.out, dpi=120)


if __name__ == "__main__":
    main()
