"""Figures of the report, as inline SVG."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from trainer.checkpoint import CURVE, METRICS

COLOURS = {False: "#7a7f87", True: "#1668a8"}
STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e8e8e8",
    "svg.fonttype": "none",
    "svg.hashsalt": "crossmedia",
}


def _svg(figure: Figure) -> str:
    out = io.StringIO()
    figure.savefig(out, format="svg", bbox_inches="tight", metadata={"Date": None})
    text = out.getvalue()
    return text[text.index("<svg") :]


def _runs(folder: Path, names: list[str], file: str) -> list[str]:
    return [(folder / name / file).read_text() for name in names]


def learning_curves(folder: Path, comparison: dict[str, Any]) -> str:
    """Validation AUC by epoch: a thin line a seed, one panel a model."""
    with mpl.rc_context(STYLE):
        models = list(dict.fromkeys(row["model"] for row in comparison["rows"]))
        figure = Figure(figsize=(4.2 * len(models), 2.8))
        axes = figure.subplots(1, len(models), squeeze=False, sharey=True)[0]
        for axis, model in zip(axes, models, strict=True):
            for images in (False, True):
                names = comparison["runs"][f"{model}-{'images' if images else 'ids'}"]
                for number, text in enumerate(_runs(folder, names, CURVE)):
                    lines = [json.loads(line) for line in text.splitlines()]
                    label = ("with images" if images else "ids only") if number == 0 else None
                    axis.plot(
                        [line["epoch"] for line in lines],
                        [line["validation_auc"] for line in lines],
                        color=COLOURS[images],
                        marker="." if not images else "o",
                        markersize=4,
                        linewidth=1.2,
                        label=label,
                    )
            axis.set_title(model)
            axis.set_xlabel("epoch")
            axis.xaxis.get_major_locator().set_params(integer=True)
        axes[0].set_ylabel("AUC on the validation part")
        axes[0].legend(frameon=False)
        return _svg(figure)


def auc_by_item_count(folder: Path, comparison: dict[str, Any]) -> str:
    """Test AUC by how often the item was shown in training, mean and standard deviation over the seeds."""
    with mpl.rc_context(STYLE):
        models = list(dict.fromkeys(row["model"] for row in comparison["rows"]))
        figure = Figure(figsize=(4.2 * len(models), 2.8))
        axes = figure.subplots(1, len(models), squeeze=False, sharey=True)[0]
        for axis, model in zip(axes, models, strict=True):
            for images in (False, True):
                names = comparison["runs"][f"{model}-{'images' if images else 'ids'}"]
                found = [json.loads(text)["test"]["by_item_count"] for text in _runs(folder, names, METRICS)]
                buckets = [name for name, value in found[0].items() if value["rows"] and value["auc"] is not None]
                values = np.array([[run[name]["auc"] for name in buckets] for run in found])
                place = np.arange(len(buckets)) + (0.12 if images else -0.12)
                spread = values.std(axis=0, ddof=1) if len(values) > 1 else None
                axis.errorbar(
                    place,
                    values.mean(axis=0),
                    yerr=spread,
                    fmt="o" if images else ".",
                    color=COLOURS[images],
                    capsize=3,
                    label="with images" if images else "ids only",
                )
                labels = [f"{name}\n{found[0][name]['rows']:,} rows" for name in buckets]
                axis.set_xticks(np.arange(len(buckets)), labels)
            axis.set_title(model)
            axis.set_xlabel("times the item was shown in training")
            axis.margins(x=0.15)
        axes[0].set_ylabel("AUC on the test part")
        axes[0].legend(frameon=False)
        return _svg(figure)
