"""Figures of lines of results: for the report as inline SVG, for ``trainer results`` as a file."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from crossmedia.disk import replacing
from crossmedia.errors import BadInput
from crossmedia.trainer.report.summary import base_name, is_baseline, kind, model_name, spaces_of
from crossmedia.trainer.runs.results import Line
from crossmedia.words import counted

COLOURS = ("#7a7f87", "#1668a8", "#b3432b", "#3f8f4f", "#8a5aa8", "#c08a1e")  # ids only, then choices of spaces
SVG = "http://www.w3.org/2000/svg"
ElementTree.register_namespace("", SVG)
ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")
LEAST_BELOW = 0.02  # AUC below the worst run's best epoch that is shown
STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e8e8e8",
    "svg.fonttype": "none",
    "svg.hashsalt": "crossmedia",
}


def svg(figure: Figure, alt: str = "") -> str:
    """The figure as an ``<svg>`` element; points that have a gid say it and their value where the pointer is.

    Args:
        figure: to draw.
        alt: words for those who cannot see it.
    """
    said = dict[str, list[str]]()
    for line in (line for axis in figure.axes for line in axis.get_lines() if line.get_gid()):
        name, place = line.get_gid(), f"points-{len(said)}"
        said[place] = [f"{name}: {value:.4f}" for value in np.asarray(line.get_ydata(), dtype=np.float64)]
        line.set_gid(place)
    out = io.StringIO()
    figure.savefig(out, format="svg", bbox_inches="tight", metadata={"Date": None})
    root = ElementTree.fromstring(out.getvalue())
    root.attrib |= {"role": "img", "aria-label": alt}
    for group in root.iter(f"{{{SVG}}}g"):
        for use, text in zip(group.iter(f"{{{SVG}}}use"), said.get(group.get("id", ""), []), strict=False):
            ElementTree.SubElement(use, f"{{{SVG}}}title").text = text
        if group.get("id", "") in said:
            del group.attrib["id"]  # another chart of the page has it, too
    return ElementTree.tostring(root, encoding="unicode")


def save(figure: Figure, path: Path) -> None:
    """Write the figure to a file; its ending says the format.

    Raises:
        BadInput: the format is unknown.
        StoreError: the file cannot be written.
    """
    try:
        with replacing(path) as part:
            figure.savefig(part, format=path.suffix[1:], bbox_inches="tight", dpi=150)
    except ValueError as error:
        raise BadInput(f"The figure cannot be written to {path}: {error}.") from error


def _models(lines: Sequence[Line]) -> list[str]:
    """Names of models; one with ids only that stands beside the same with images has no panel of its own."""
    trained = [line for line in lines if not is_baseline(line)]
    beside = {base_name(line) for line in trained if line["images"]}
    return list(dict.fromkeys(model_name(line) for line in trained if line["images"] or model_name(line) not in beside))


def _kinds(lines: Sequence[Line], model: str) -> Iterator[tuple[tuple[str, ...], list[Line]]]:
    """Lines of a model with ids only, and with each choice of spaces, where there are any."""
    shown = [line for line in lines if line["images"] and model_name(line) == model]
    base = base_name(shown[0]) if shown else model
    if plain := [line for line in lines if not line["images"] and model_name(line) == base]:
        yield (), plain
    for spaces in _choices(map(spaces_of, shown)):
        yield spaces, [line for line in shown if spaces_of(line) == spaces]


def _choices(spaces: Iterable[Sequence[str]]) -> list[tuple[str, ...]]:
    """Choices of spaces in the order of the rows: fewest first."""
    return sorted(set(map(tuple, spaces)), key=lambda names: (len(names), names))


@dataclass(frozen=True)
class _Look:
    """How runs with one choice of spaces are drawn: ``shift`` is the distance from the middle of where all belong."""

    colour: str
    marker: str
    shift: float
    label: str


def _looks(spaces: Iterable[Sequence[str]]) -> dict[tuple[str, ...], _Look]:
    """Looks of some choices of spaces; that of ids only comes first."""
    choices = [(), *(one for one in _choices(spaces) if one)]
    shifts = np.linspace(-0.12, 0.12, len(choices)) if len(choices) > 1 else [0.0]
    return {
        one: _Look(COLOURS[min(n, len(COLOURS) - 1)], "o" if one else ".", float(shift), kind(one))
        for n, (one, shift) in enumerate(zip(choices, shifts, strict=True))
    }


def by_model(lines: Sequence[Line]) -> list[list[Line]]:
    """The lines of each model that has a panel, with those of ids only beside it."""
    return [[line for _, found in _kinds(lines, model) for line in found] for model in _models(lines)]


def auc_span(lines: Sequence[Line]) -> tuple[float, float] | None:
    """The range of the validation AUC that is worth seeing, with a margin; None: there is none.

    It holds the best epoch of each run and all that came after it, and as much again below the worst of the best: a
    first epoch that has learned nothing yet would press all that differs into the top of the picture.
    """
    curves = [[p["validation_auc"] for p in line["curve"] if p["validation_auc"] is not None] for line in lines]
    if not (curves := [curve for curve in curves if curve]):
        return None
    best, every = [max(curve) for curve in curves], [value for curve in curves for value in curve]
    since = min(min(curve[curve.index(most) :]) for curve, most in zip(curves, best, strict=True))
    least = max(min(every), min(since, 2 * min(best) - max(every) - LEAST_BELOW))
    margin = 0.05 * (max(every) - least) or 0.01
    return least - margin, max(every) + margin


def is_cut(lines: Sequence[Line], span: tuple[float, float]) -> bool:
    """Whether an epoch lies below what is shown."""
    return any(p["validation_auc"] is not None and p["validation_auc"] < span[0] for x in lines for p in x["curve"])


def learning_curves(lines: Sequence[Line], span: tuple[float, float] | None = None) -> Figure:
    """Validation AUC by epoch: a thin line a seed, one panel a model.

    Args:
        lines: of results.
        span: of the AUC that is shown; the range of these lines when it is not given.
    """
    looks = _looks(map(spaces_of, lines))
    with mpl.rc_context(STYLE):
        models = _models(lines)
        figure = Figure(figsize=(4.2 * len(models), 3.0), layout="constrained")
        axes = figure.subplots(1, len(models), squeeze=False, sharey=True)[0]
        for axis, model in zip(axes, models, strict=True):
            for spaces, found in _kinds(lines, model):
                for number, line in enumerate(found):
                    _curve(axis, line, looks[spaces], span, labelled=number == 0)
            axis.set_title(model)
            axis.set_xlabel("epoch")
            axis.xaxis.get_major_locator().set_params(integer=True)
        axes[0].set_ylabel("AUC on the validation part")
        if span is not None:
            axes[0].set_ylim(*span)
        _legend(figure)
        return figure


def _curve(axis: Axes, line: Line, look: _Look, span: tuple[float, float] | None, *, labelled: bool) -> None:
    """A run: a line through all epochs, and a point at each that is in the picture."""
    points = [(p["epoch"], p["validation_auc"]) for p in line["curve"] if p["validation_auc"] is not None]
    shown = [point for point in points if span is None or point[1] >= span[0]]
    axis.plot(*zip(*points, strict=True) if points else ([], []), color=look.colour, linewidth=1.2)
    axis.plot(
        *zip(*shown, strict=True) if shown else ([], []),
        color=look.colour,
        marker=look.marker,
        linestyle="",
        markersize=5,
        label=look.label if labelled else None,
        gid=f"{look.label}, seed {line['seed']}",
    )


def _legend(figure: Figure) -> None:
    """What is what, below the panels, where it covers nothing."""
    found = {
        label: handle for axis in figure.axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    if found:
        figure.legend(found.values(), found.keys(), frameon=False, loc="outside lower center", ncols=len(found))


def models_side_by_side(rows: Sequence[dict[str, Any]]) -> Figure:
    """AUC, GAUC and AUC of unseen items of rows of ``summary.rows``: a dot a row, with the deviation over its seeds."""
    names, looks = list(dict.fromkeys(row["model"] for row in rows)), _looks(row["spaces"] for row in rows)
    panels = (("AUC", "all", "auc"), ("GAUC", "all", "gauc"), ("AUC, items unseen in training", "unseen_items", "auc"))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(12, 0.32 * len(names) + 1), layout="constrained")
        for axis, (title, part, metric) in zip(figure.subplots(1, 3, sharey=True), panels, strict=True):
            for spaces, look in looks.items():
                found = [row for row in rows if tuple(row["spaces"]) == spaces and row[part][metric]]
                axis.errorbar(
                    [row[part][metric]["mean"] for row in found],
                    [names.index(row["model"]) + look.shift for row in found],
                    xerr=[row[part][metric]["std"] or 0.0 for row in found],
                    fmt="o",
                    color=look.colour,
                    capsize=2,
                    label=look.label,
                )
            axis.set_title(title, loc="left")
            axis.set_yticks(range(len(names)), names)
        axis.invert_yaxis()
        figure.legend(
            *figure.axes[0].get_legend_handles_labels(), frameon=False, loc="outside upper right", ncols=len(looks)
        )
        return figure


def auc_by_item_count(groups: Sequence[Sequence[Line]], titles: Sequence[str] = ("",)) -> Figure:
    """Test AUC by how often the item was shown in training, mean and standard deviation over the seeds.

    Args:
        groups: lines that belong together; each group is a row of panels, one a model.
        titles: of the groups.
    """
    with mpl.rc_context(STYLE):
        columns = max(len(_models(lines)) for lines in groups)
        figure = Figure(figsize=(4.2 * columns, 3.0 * len(groups)), layout="constrained")
        grid = figure.subplots(len(groups), columns, squeeze=False, sharey="row")
        for axes, lines, title in zip(grid, groups, titles, strict=True):
            models = _models(lines)
            for axis, model in zip(axes, models, strict=False):
                _item_counts(axis, lines, model)
                axis.set_title(f"{title}: {model}" if title else model)
            for axis in axes[len(models) :]:
                axis.set_visible(False)
            axes[0].set_ylabel("AUC on the test part")
        _legend(figure)
        return figure


def _item_counts(axis: Axes, lines: Sequence[Line], model: str) -> None:
    looks = _looks(map(spaces_of, lines))
    for spaces, found in _kinds(lines, model):
        look = looks[spaces]
        buckets = [line["test"]["by_item_count"] for line in found]
        names = [name for name, value in buckets[0].items() if value["rows"] and value["auc"] is not None]
        values = np.array([[bucket[name]["auc"] for name in names] for bucket in buckets], dtype=np.float64)
        points = axis.errorbar(
            np.arange(len(names)) + look.shift,
            values.mean(axis=0),
            yerr=values.std(axis=0, ddof=1) if len(values) > 1 else None,
            fmt=look.marker,
            color=look.colour,
            capsize=3,
            label=look.label,
        )
        points[0].set_gid(f"{look.label}, mean of {counted(len(values), 'seed')}")
        axis.set_xticks(np.arange(len(names)), [f"{name}\n{buckets[0][name]['rows']:,}" for name in names])
    axis.set_xlabel("times shown in training; below: test rows")
    axis.margins(x=0.15)
