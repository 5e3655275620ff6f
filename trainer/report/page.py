"""Puts the page together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from crossmedia.disk import replacing
from crossmedia.errors import BadInput, CrossMediaError, NoStore
from crossmedia.options import checked
from crossmedia.pages import page
from crossmedia.trainer.report import summary
from crossmedia.trainer.report.additive_runs import additive_runs, needed_runs
from crossmedia.trainer.report.decides import decides_section, outcome
from crossmedia.trainer.report.facts import of_splits
from crossmedia.trainer.report.impressions import Impressions, impressions_of
from crossmedia.trainer.report.item_page import write_item_page
from crossmedia.trainer.report.item_photos import item_photos
from crossmedia.trainer.report.opened_run import OpenedRun, loaded_run
from crossmedia.trainer.report.photos import NO_PHOTOS, Strip, neighbours
from crossmedia.trainer.report.shown_runs import ShownRuns, compared, shown_runs
from crossmedia.trainer.report.tables import gauc_users, number, of_runs
from crossmedia.trainer.report.templates import template
from crossmedia.trainer.settings import ReportConfig


@dataclass(frozen=True)
class Section:
    """Strips of photos, or why there are none; and a sentence on them."""

    strips: list[Strip] = field(default_factory=list)
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
    if config.item:
        runs = needed_runs(config.comparison, compared(config.comparison)["runs"])
        return Written(config.out, write_item_page(config, runs))
    if config.category:
        raise BadInput("--category says what an item is compared with: give --item, too.")
    shown = shown_runs(config.comparison, config.samples)
    lines, rows = shown.comparison["runs"], shown.comparison["rows"]
    label = str((lines[0]["options"].get("labels") or shown.samples.labels)[0])
    explained = additive_runs(config.comparison, lines)
    decides = decides_section(config, explained) if explained else None
    title = config.title or shown.title
    photos = _photo_sections(config, shown)
    body = template("page.html").render(
        config=config,
        shown=shown,
        title=title,
        rows=rows,
        called=summary.called,
        number=number,
        gauc_users=gauc_users(rows[0]["all"]),
        label=label,
        splits=of_splits(shown.samples, label),
        held_out=any("held_out_items" in summary.told_parts(row) for row in rows),
        of_runs=of_runs(rows),
        options=sorted({summary.options_text(line) for line in lines}),
        commits=sorted({line["commit"] for line in lines if line.get("commit")}),
        dates=sorted(line["date"] for line in lines if line.get("date")),
        today=datetime.now(UTC).isoformat(timespec="minutes"),
        photos=photos,
        decides=decides,
        outcome=outcome(label),
    )
    with replacing(config.out) as part:
        part.write_text(page(title, body), encoding="utf-8")
    facts = asdict(decides.facts) if decides and decides.facts else None
    return Written(config.out, {"report": str(config.out), "seed": config.seed, "decides": facts})


@dataclass(frozen=True)
class _Photos:
    """The sections with photos, and the versions of the vectors that they are of; or why there are none at all."""

    absent: str = ""
    near: Section = field(default_factory=Section)
    impressions: Impressions = field(default_factory=lambda: Impressions([]))
    of_items: Section = field(default_factory=Section)
    version: str = ""

    @property
    def learned(self) -> bool:
        """Whether neighbours are shown by feature and by what a head learned."""
        return any(strip.text for strip in self.near.strips)


def _photo_sections(config: ReportConfig, shown: ShownRuns) -> _Photos:
    if not shown.samples.image_vocabulary_size:
        return _Photos("The samples have no images.")
    try:
        run = loaded_run(config.comparison, shown.comparison["runs"])
    except BadInput as error:
        return _Photos(str(error))
    try:
        with run.opened(config, shown.samples) as opened:
            return _drawn(config, opened)
    except CrossMediaError as error:
        if (config.server or config.store or config.vectors) and isinstance(error, NoStore | BadInput):
            raise
        return _Photos(f"Not drawn: {error}", version=run.version)


def _drawn(config: ReportConfig, opened: OpenedRun) -> _Photos:
    """What is drawn of a run that is open; a section that there are too few rows for says so."""
    run, samples = opened.run, opened.feed.samples

    def section(work: Callable[[], tuple[list[Strip], str]]) -> Section:
        strips, said = work()
        if not strips:
            return Section([], "There are too few rows to draw.", said)
        if not any(picture.data for strip in strips for picture in (strip.first, *strip.others)):
            return Section([], NO_PHOTOS, said)
        return Section(strips, "", said)

    return _Photos(
        "",
        section(lambda: (neighbours(samples, opened.images, config.seed), "")),
        impressions_of(opened, config.seed),
        section(lambda: item_photos(opened.feed, opened.images.source, run.space, run.model)),
        run.version,
    )
