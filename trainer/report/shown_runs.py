"""What a comparison, or a run alone, shows without its vectors: headline, picture, curves, table; for any page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crossmedia.errors import BadInput
from crossmedia.features.reading.samples import Samples
from crossmedia.features.reading.unseen_items import samples_of
from crossmedia.features.spec import IMAGE_SPACE
from crossmedia.trainer.baseline_lines import baseline_lines
from crossmedia.trainer.compare import RESULTS
from crossmedia.trainer.intervals import with_intervals
from crossmedia.trainer.report import summary
from crossmedia.trainer.report.by_popularity import ByPopularity, by_popularity
from crossmedia.trainer.report.facts import Headline, headline, told_row, warnings
from crossmedia.trainer.report.figures import auc_by_item_count, auc_span, by_model, is_cut, learning_curves, svg
from crossmedia.trainer.report.tables import Table, as_text
from crossmedia.trainer.report.templates import template
from crossmedia.trainer.report.verdict import vectors_of
from crossmedia.trainer.runs.checkpoint import METRICS, document_of, needed, samples_folder
from crossmedia.trainer.runs.results import DEFAULTS, Line, of_now
from crossmedia.trainer.runs.run_folder import COMPARISON, holds_run, name_in_comparison
from crossmedia.trainer.runs.sealed import open_json, text_of
from crossmedia.trainer.settings import FitConfig


@dataclass(frozen=True)
class ShownRuns:
    """What there is to see of the runs of a folder.

    Attributes:
        title: the question that they answer.
        headline: the answer.
        popularity: where the model of the headline gains.
        sentence: who is best, and whether the vectors helped, with intervals.
        warnings: what speaks against the models, in sentences.
        curves: learning curves, an SVG a model.
        cut: where the axis of the curves begins, if epochs lie below it; 0: none does.
        buckets: AUC by how often the item was shown, an SVG a model.
        table: metrics and differences, a row a model.
        comparison: what all of it is made of.
        samples: that the runs were judged on.
    """

    title: str
    headline: Headline
    popularity: ByPopularity
    sentence: str
    warnings: list[str]
    curves: list[str]
    cut: float
    buckets: list[str]
    table: Table
    comparison: dict[str, Any]
    samples: Samples

    @property
    def gain(self) -> str:
        """The picture of ``popularity`` as HTML in the style of all pages; empty: there is none."""
        return template("gain.html").render(found=self.popularity).strip()


def run_folders(root: Path) -> list[Path]:
    """The comparisons below a folder, and the runs that are of none, the latest first.

    Example:
        >>> from pathlib import Path
        >>> from crossmedia.trainer.report.shown_runs import run_folders
        >>> Path("runs/din") in run_folders(Path("runs"))
        True
    """
    comparisons = [path.parent for path in root.rglob(COMPARISON)]
    of_comparisons = set(comparisons)
    runs = [path.parent for path in root.rglob(METRICS) if path.parent.parent not in of_comparisons]
    alone = [path for path in runs if holds_run(path)]
    return sorted([*comparisons, *alone], key=lambda path: -path.stat().st_mtime)


def shown_runs(folder: Path, samples: str = "") -> ShownRuns:
    """What there is to see of a comparison, or of a run alone; no server is asked.

    Args:
        folder: of ``trainer compare``, or of ``trainer fit``.
        samples: where their samples are now, if not where they were.

    Raises:
        BadInput: it holds neither, or the samples are not there.
    """
    comparison = compared(folder)
    opened = Samples(samples_folder(folder, comparison["samples"], samples))
    comparison = _with_baselines(comparison, opened)
    runs, rows = comparison["runs"], comparison["rows"]
    places = [(line, run_folder(folder, line)) for line in runs]
    judged = samples_of(str(opened.folder), runs[0]["options"].get("validate_on", "all-items"))
    told = told_row(rows)
    span = auc_span(runs)
    return ShownRuns(
        _title(rows),
        headline(rows),
        by_popularity(judged, places, told) if told else ByPopularity(),
        comparison["sentence"],
        warnings(comparison),
        [svg(learning_curves(lines, span), "Learning curves") for lines in by_model(runs)],
        span[0] if span and is_cut(runs, span) else 0.0,
        [svg(auc_by_item_count([lines]), "AUC by how often items were shown") for lines in by_model(runs)],
        as_text(rows, comparison.get("reference")),
        comparison,
        opened,
    )


def run_folder(folder: Path, line: Line) -> Path:
    """Where the run of a line is.

    Args:
        folder: of the comparison.
        line: of its results.
    """
    own = name_in_comparison(line["model"], summary.spaces_of(line), line["seed"])
    return Path(line.get("folder") or folder / own)


def compared(folder: Path) -> dict[str, Any]:
    """What ``trainer compare`` left in a folder; a run alone is a comparison of one line.

    Raises:
        BadInput: it holds neither.
    """
    try:
        if holds_run(folder):
            result = json.loads(text_of(needed(folder, METRICS)))
            document = document_of(folder)
            fitted = document["fit"]
            about = {name: fitted[name] for name in ("model", "images", "seed")}
            about["samples"] = document["lineage"]["samples_hash"]
            options = {name: fitted[name] for name in DEFAULTS if name in fitted}
            line = {**about, "options": options, "folder": str(folder), **result}
            said = "One run has no other beside it: 'trainer compare' says whether its vectors helped."
            run = {"samples": fitted["samples"], "seeds": 1, "reference": None, "sentence": said}
            return {**run, "runs": [line]}
        return open_json(text_of(folder / COMPARISON))
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        if (folder / RESULTS).exists() and not (folder / COMPARISON).exists():
            raise BadInput(
                f"The comparison in {folder} has not ended. The same 'trainer compare' goes on with it; 'trainer "
                f"results {folder / RESULTS}' shows the runs that have."
            ) from error
        raise BadInput(
            f"{folder} holds neither a comparison nor a run: {error}. 'trainer compare' and 'trainer fit' make them."
        ) from error


def _title(rows: Sequence[dict[str, Any]]) -> str:
    """The question that the runs answer; of one that is beside no other, what it is."""
    told = told_row(rows)
    if told is not None and not told["all"]["auc_gain"]:
        return f"What {summary.called(told)} learned"
    spaces = sorted({space for row in rows for space in row["spaces"]}) or [IMAGE_SPACE]
    return f"Were the {vectors_of(spaces)} worth it?"


def _with_baselines(comparison: dict[str, Any], samples: Samples) -> dict[str, Any]:
    """A comparison with the rows of baselines: of a run alone, and of an older release, they are made now."""
    if "baselines" in comparison:
        return comparison
    runs = [of_now(line) for line in comparison["runs"]]
    options = DEFAULTS | runs[0]["options"]
    of_rows = {"labels": tuple(options["labels"]), "validate_on": options["validate_on"]}
    config = FitConfig(str(samples.folder), **of_rows)
    means = baseline_lines(config, runs[0].get("data", ""))
    folders = [(line, Path(line["folder"])) for line in runs if "folder" in line]
    rows, _ = with_intervals(summary.rows([*means, *runs]), folders, config)
    return {**comparison, "runs": runs, "baselines": means, "rows": rows}
