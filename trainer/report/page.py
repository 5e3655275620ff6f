"""Puts the page together."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from crossmedia.disk import replacing
from crossmedia.errors import BadInput, CrossMediaError, NoStore
from crossmedia.features.reading.samples import Samples
from crossmedia.features.spec import BY_IMAGE, IMAGE_SPACE
from crossmedia.imgserver.client import ImageClient
from crossmedia.options import checked
from crossmedia.trainer.baseline_lines import baseline_lines
from crossmedia.trainer.compare import RESULTS
from crossmedia.trainer.feed import Feed
from crossmedia.trainer.images.image_head import StoredVectors
from crossmedia.trainer.images.open_images import images_of, places_of
from crossmedia.trainer.images.places import Sources
from crossmedia.trainer.images.spaces import Spaces, named_versions
from crossmedia.trainer.intervals import with_intervals
from crossmedia.trainer.report import summary
from crossmedia.trainer.report.additive_runs import additive_runs, needed_runs
from crossmedia.trainer.report.decides import decides_section, outcome
from crossmedia.trainer.report.facts import headline, of_splits, warnings
from crossmedia.trainer.report.figures import auc_by_item_count, auc_span, by_model, learning_curves, svg
from crossmedia.trainer.report.item_page import write_item_page
from crossmedia.trainer.report.item_photos import item_photos
from crossmedia.trainer.report.photos import NO_PHOTOS, Strip, attention, neighbours
from crossmedia.trainer.report.tables import gauc_users, number, of_runs
from crossmedia.trainer.report.templates import template
from crossmedia.trainer.report.verdict import vectors_of
from crossmedia.trainer.runs.checkpoint import METRICS, document_of, load_model, needed, samples_folder
from crossmedia.trainer.runs.results import DEFAULTS, of_now
from crossmedia.trainer.runs.run_folder import COMPARISON, holds_run, name_in_comparison
from crossmedia.trainer.runs.sealed import open_json
from crossmedia.trainer.settings import FitConfig, ReportConfig

ATTENDING = ("din", "simtier", "muse")


@dataclass(frozen=True)
class Section:
    """Strips of photos, or why there are none; and a sentence on them."""

    strips: list[Strip]
    absent: str = ""
    said: str = ""


@dataclass(frozen=True)
class Written:
    """A page, and its facts as data."""

    path: Path
    facts: dict[str, Any]


def write_report(config: ReportConfig) -> Path:
    """Write the page and return its path. Photos are left out, and the page says why, when the server cannot be had.

    Raises:
        BadInput: a setting is wrong, or the folder holds neither a comparison nor a run.
        NoStore: there is no store in the folder that is named.

    Example:
        >>> from pathlib import Path
        >>> from crossmedia import ReportConfig, write_report
        >>> page = write_report(ReportConfig(Path("runs/din"), server="localhost:7070", out=Path("din.html")))
        >>> "Metrics of the test part" in page.read_text()
        True
    """
    return written_report(config).path


def written_report(config: ReportConfig) -> Written:
    """As ``write_report``, with the facts of the page.

    Raises:
        BadInput, NoStore: as ``write_report``.
    """
    config = checked(config, ReportConfig)
    comparison = _comparison(config.comparison)
    if config.item:
        return Written(config.out, write_item_page(config, needed_runs(config.comparison, comparison["runs"])))
    if config.category:
        raise BadInput("--category says what an item is compared with: give --item, too.")
    samples = Samples(samples_folder(config.comparison, comparison["samples"], config.samples))
    comparison = _with_baselines(comparison, samples)
    runs, rows = comparison["runs"], comparison["rows"]
    vectors = vectors_of(sorted({space for row in rows for space in row["spaces"]}) or [IMAGE_SPACE])
    label = _label(runs[0], samples)
    photos = _photo_sections(config, comparison, samples)
    explained = additive_runs(config.comparison, runs)
    decides = decides_section(config, explained) if explained else None
    span = auc_span(runs)
    html = template("page.html").render(
        config=config,
        comparison=comparison,
        headline=headline(rows),
        warnings=warnings(comparison),
        title=config.title or f"Were the {vectors} worth it?",
        rows=rows,
        vectors=vectors,
        called=summary.called,
        number=number,
        samples=samples,
        gauc_users=gauc_users(rows[0]["all"]),
        label=label,
        splits=of_splits(samples, label),
        held_out=any("held_out_items" in summary.told_parts(row) for row in rows),
        of_runs=of_runs(rows),
        version=photos.version,
        options=sorted({summary.options_text(line) for line in runs}),
        commits=sorted({line["commit"] for line in runs if line.get("commit")}),
        dates=sorted(line["date"] for line in runs if line.get("date")),
        today=datetime.now(UTC).isoformat(timespec="minutes"),
        curves=[svg(learning_curves(lines, span)) for lines in by_model(runs)],
        buckets=[svg(auc_by_item_count([lines])) for lines in by_model(runs)],
        near=photos.near,
        learned=any(strip.text for strip in photos.near.strips),
        looked=photos.looked,
        item_photos=photos.item_photos,
        decides=decides,
        outcome=outcome(label),
    )
    with replacing(config.out) as part:
        part.write_text(html, encoding="utf-8")
    facts = asdict(decides.facts) if decides and decides.facts else None
    return Written(config.out, {"report": str(config.out), "seed": config.seed, "decides": facts})


def _label(line: dict[str, Any], samples: Samples) -> str:
    """The label that decided when to stop, and that metrics are of."""
    labels = line["options"].get("labels") or samples.labels
    return str(labels[0])


def _comparison(folder: Path) -> dict[str, Any]:
    """What ``trainer compare`` left in a folder; a run alone is a comparison of one line."""
    try:
        if holds_run(folder):
            result = json.loads(needed(folder, METRICS).read_text())
            document = document_of(folder)
            fitted = document["fit"]
            about = {name: fitted[name] for name in ("model", "images", "seed")}
            about["samples"] = document["lineage"]["samples_hash"]
            options = {name: fitted[name] for name in DEFAULTS if name in fitted}
            line = {**about, "options": options, "folder": str(folder), **result}
            said = "One run has no other beside it: 'trainer compare' says whether its vectors helped."
            run = {"samples": fitted["samples"], "seeds": 1, "reference": None, "sentence": said}
            return {**run, "runs": [line]}
        return open_json((folder / COMPARISON).read_text())
    except (OSError, ValueError, KeyError) as error:
        if (folder / RESULTS).exists() and not (folder / COMPARISON).exists():
            raise BadInput(
                f"The comparison in {folder} has not ended. The same 'trainer compare' goes on with it; 'trainer "
                f"results {folder / RESULTS}' shows the runs that have."
            ) from error
        raise BadInput(
            f"{folder} holds neither a comparison nor a run: {error}. 'trainer compare' and 'trainer fit' make them."
        ) from error


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


@dataclass(frozen=True)
class _Photos:
    """The sections with photos, and the versions of the vectors that they are of."""

    near: Section
    looked: Section
    item_photos: Section
    version: str = ""

    @classmethod
    def absent(cls, why: str, version: str = "") -> _Photos:
        """None of them, for a reason."""
        return cls(Section([], why), Section([], why), Section([], why), version)


def _photo_sections(config: ReportConfig, comparison: dict[str, Any], samples: Samples) -> _Photos:
    runs = [line for line in comparison["runs"] if line["model"] in ATTENDING and line["images"]]
    if not samples.image_vocabulary_size:
        return _Photos.absent("The samples have no images.")
    if not runs:
        return _Photos.absent(f"None of {', '.join(ATTENDING)} was trained with images.")
    name = name_in_comparison(runs[0]["model"], summary.spaces_of(runs[0]), runs[0]["seed"])
    run = Path(runs[0].get("folder") or config.comparison / name)
    try:
        model, lineage, fitted = load_model(run)
    except BadInput:  # its line came from a file of results; the weights are elsewhere
        return _Photos.absent(f"The weights of the run are not at {run}.", runs[0]["vector_version"])
    version = named_versions(lineage.versions)
    space = next((name for name in lineage.versions if lineage.inputs.space_keys[name] == BY_IMAGE), "")
    if not space:
        return _Photos.absent("The vectors of the run are of no images.", version)
    sources = Sources.of_run(fitted, config.server, config.store, config.vectors, config.catalogue)

    def section(work: Callable[[Feed, StoredVectors], tuple[list[Strip], str]]) -> Section:
        try:
            with ExitStack() as opened:
                spaces = {}
                for name, place in places_of(lineage.versions, sources).items():
                    client = opened.enter_context(ImageClient(place.source, timeout_s=20))
                    learned = name == lineage.learned
                    spaces[name] = images_of(run, lineage.versions[name], client, learned=learned)
                feed = Feed(samples, Spaces(spaces), 1024, torch.device("cpu"))
                strips, said = work(feed, spaces[space])
        except CrossMediaError as error:
            given = config.server or config.store or config.vectors
            if given and isinstance(error, NoStore | BadInput):
                raise
            return Section([], f"Not drawn: {error}")
        if not strips:
            return Section([], "There are too few rows to draw.", said)
        if not any(picture.data for strip in strips for picture in (strip.first, *strip.others)):
            return Section([], NO_PHOTOS, said)
        return Section(strips, "", said)

    return _Photos(
        section(lambda _, images: (neighbours(samples, images, config.seed), "")),
        section(lambda feed, images: attention(feed, images.source, run, model, config.seed)),
        section(lambda feed, images: item_photos(feed, images.source, space, model)),
        version,
    )
