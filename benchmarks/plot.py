"""Draw the results of ``fetch``, ``embed``, ``train``, ``bytes`` and ``models`` as one figure.

for name in fetch embed train bytes models; do python -m benchmarks.$name | tail -1; done > results.jsonl
python -m benchmarks.plot results.jsonl --out performance.png
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

OURS, OTHERS = "#2b6cb0", "#a0aec0"
FETCH = ("repeated float", "Redis MGET", "ours", "Arrow Flight", "raw socket")
EMBED = ("torch eager", "our server", "our precompute", "best loop", "OpenVINO on ready pixels")
MODELS = ("FuxiCTR", "DeepCTR-Torch", "crossmedia")
TRAIN = ("vectors in memory", "vectors fetched")


def bars(axes: Any, rows: list[tuple[str, float, str]], title: str) -> None:
    """Horizontal bars: name, value, text; ours in colour."""
    for place, (name, value, text) in enumerate(rows):
        ours = name.startswith("our") or name in ("vectors fetched", "ids only", "crossmedia")
        axes.barh(place, value, color=OURS if ours else OTHERS)
        axes.text(value, place, f" {text}", va="center", fontsize=8)
    axes.set_yticks(range(len(rows)), [name for name, _, _ in rows], fontsize=8)
    axes.set_title(title, fontsize=9, loc="left")
    axes.margins(x=0.2)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="x", labelsize=7)


def rates(found: dict[str, Any], names: tuple[str, ...], scale: float, digits: int) -> list[tuple[str, float, str]]:
    """Median rates of the parts that were measured."""
    return [
        (name, found[name]["rate"][1] / scale, f"{found[name]['rate'][1] / scale:,.{digits}f}")
        for name in names
        if name in found
    ]


def main() -> None:
    """Read the lines, draw."""
    parser = argparse.ArgumentParser(description="A figure of benchmark results.")
    parser.add_argument("results", type=Path, help="file with the last line of each benchmark")
    parser.add_argument("--out", type=Path, default=Path("performance.png"))
    arguments = parser.parse_args()
    lines = [json.loads(line) for line in arguments.results.read_text().splitlines() if line.startswith("{")]
    found = {line["benchmark"]: line for line in lines}
    figure, axes = plt.subplots(3, 2, figsize=(11, 9))
    fetch, embed, train = (found[name]["parts"] for name in ("fetch", "embed", "train"))
    bars(axes[0, 0], rates(fetch["10000_uniform"], FETCH, 1e6, 2), "Fetching: M vectors/s, 10,000 ids a request")
    bars(axes[0, 1], rates(embed["500x500"], EMBED, 1, 0), "Embedding: images/s, JPEGs of 500 x 500")
    bars(axes[1, 0], rates(train["history_50"], TRAIN, 1, 0), "Training a DIN: samples/s, 50 behaviours")
    samples = found["bytes"]["samples"]
    shown = {"features": "features inside", "vectors": "vectors inside", "ids": "ids only"}
    sizes = [(label, samples[name], f"{samples[name]:,.0f}") for name, label in shown.items()]
    bars(axes[1, 1], sizes, "Samples: bytes each, 50 behaviours (log scale)")
    axes[1, 1].set_xscale("log")
    for axis, name in zip(axes[2], ("din", "dien"), strict=True):
        bars(axis, rates(found["models"]["parts"][name], MODELS, 1, 0), f"Training {name.upper()}: samples/s")
    figure.tight_layout()
    figure.savefig(arguments.out, dpi=120)


if __name__ == "__main__":
    main()
