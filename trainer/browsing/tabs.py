"""What ``crossmedia browse`` shows of runs and samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from crossmedia.features.reading.samples import Samples
from crossmedia.imgserver.browse.map import Columns
from crossmedia.imgserver.browse.settings import BrowseConfig
from crossmedia.imgserver.browse.site import Pages, Tab
from crossmedia.trainer.browsing.impressions import ImpressionsPages
from crossmedia.trainer.browsing.item_columns import ItemColumns
from crossmedia.trainer.browsing.runs import Runs, RunsPages


def columns_of(config: BrowseConfig) -> Columns | None:
    """What the samples know of images; None: no samples are given.

    Raises:
        BadInput: the folder holds no samples.
    """
    return None if config.samples is None else ItemColumns(Samples(config.samples))


def tabs_of(config: BrowseConfig) -> Callable[[Pages], Sequence[Tab]]:
    """The tabs of runs and impressions, where a folder of runs is given."""

    def tabs(pages: Pages) -> list[Tab]:
        if config.runs is None:
            return []
        runs = Runs(Path(config.runs), str(config.samples or ""))
        return [RunsPages(pages, runs).tab, ImpressionsPages(pages, runs, config.server).tab]

    return tabs
