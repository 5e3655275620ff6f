"""A map of the vectors: a sample in two dimensions, coloured by what is known of its images.

Legend: n images of the sample, D numbers in a vector.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from starlette.requests import Request
from starlette.responses import Response

from crossmedia.imgserver.browse.looks import Ids, Looks
from crossmedia.imgserver.browse.prepared import Prepared
from crossmedia.imgserver.browse.shown import Shown, shown_of
from crossmedia.imgserver.browse.site import Pages, Tab

POINTS, SEED, KEPT = 1_500, 0, 4
PERPLEXITY, STEPS = 30.0, 500  # of t-SNE
SIZE, MARGIN, RADIUS = 1000, 20, 5.5
WORDS_SHOWN, EXAMPLES = 8, 5  # of a legend
BINS = 5
COLOURS = ("#1668a8", "#c08a1e", "#3f8f4f", "#8a5aa8", "#b3432b", "#2aa5a0", "#d16ba5", "#5b6570")
SCALE = ("#c6dbef", "#9ecae1", "#6baed6", "#2f7fbc", "#08306b")
OTHERS, UNKNOWN = "#b7bec7", "#d8dde3"
Points = npt.NDArray[np.float32]
Values = list[str] | npt.NDArray[np.float64]
Columns = Callable[[Ids], Mapping[str, Values]]


@dataclass(frozen=True)
class Key:
    """An entry of the legend.

    Attributes:
        words: what it stands for.
        colour: of its points.
        count: its points.
        examples: some of its photos.
    """

    words: str
    colour: str
    count: int
    examples: list[Shown]


class Drawing(NamedTuple):
    """What takes its time: places by t-SNE, shape (n, 2), and what is known of the images by column."""

    places: Points
    columns: Mapping[str, Values]


class MapPage:
    """The page of the map.

    Args:
        pages: draws it.
        looks: asks the server.
        columns: image ids, shape (n,), to what is known of them by name: a word each, empty where none is known, or a
            number each, nan there.
    """

    def __init__(self, pages: Pages, looks: Looks, columns: Columns | None = None):
        self._pages, self._looks, self._columns = pages, looks, columns
        self._drawings = Prepared(self._draw, KEPT)

    @property
    def tab(self) -> Tab:
        """Its place in the site."""
        return Tab("/map", "Map", {"/map": self.page, "/map/ready": self.ready})

    def page(self, request: Request) -> Response:
        """The map: by the two main directions at once, and by t-SNE and in colours when these are made."""
        held = self._looks.versions()
        names = [version.name for version in held.held]
        version = request.query_params.get("version", "")
        version = version if version in names else held.active
        drawn = self._looks.drawn(version, POINTS, SEED)
        made = self._drawings.get(self._key(version))
        columns = made.columns if made is not None else {}
        by = request.query_params.get("colour", "")
        by = by if by in columns else next(iter(columns), "")
        listed = self._looks.client.images_of(drawn.ids)
        colours, keys = self._coloured(drawn.ids, columns[by]) if by else ([COLOURS[0]] * len(drawn.ids), [])
        places = made.places if made is not None else main_directions(drawn.unit)
        xy = MARGIN + (SIZE - 2 * MARGIN) * _within(places)
        points = list(zip(drawn.ids.tolist(), listed.names, xy.round(1).tolist(), colours, strict=True))
        return self._pages.page(
            "map.html",
            request,
            points=points,
            size=SIZE,
            radius=RADIUS,
            made=made is not None,
            of=drawn.of,
            version=version,
            names=names,
            colour=by,
            columns=list(columns),
            coloured=self._columns is not None,
            keys=keys,
        )

    def ready(self, request: Request) -> Response:
        """Tells the page that waits when the map is made."""
        return self._drawings.answer(self._key(request.query_params.get("version", "")))

    def _key(self, version: str) -> tuple[str, int]:
        return version, self._looks.info().generation

    def _draw(self, key: tuple[str, int]) -> Drawing:
        drawn = self._looks.drawn(key[0], POINTS, SEED)
        columns = self._columns(drawn.ids) if self._columns is not None else {}
        return Drawing(neighbours_kept(drawn.unit), columns)

    def _coloured(self, ids: Ids, values: Values) -> tuple[list[str], list[Key]]:
        """The colour of each point, and the legend."""
        words, order, scale = (values, [], COLOURS) if isinstance(values, list) else (*_bins(values), SCALE)
        counts = {word: words.count(word) for word in dict.fromkeys(words) if word}
        shown = [word for word in order if word in counts]
        shown = shown or sorted(counts, key=lambda word: (-counts[word], word))[:WORDS_SHOWN]
        colour_of = dict(zip(shown, scale, strict=False))
        colours = [colour_of.get(word, OTHERS if word else UNKNOWN) for word in words]
        keys = []
        for word, colour in [*colour_of.items(), ("all others", OTHERS), ("not known", UNKNOWN)]:
            places = [place for place, one in enumerate(colours) if one == colour]
            if places:
                examples = shown_of(self._looks.client, ids[places[:EXAMPLES]])
                keys.append(Key(word, colour, len(places), examples))
        return colours, keys


def main_directions(unit: npt.NDArray[np.float16]) -> Points:
    """The two directions in which vectors, shape (n, D), differ most: shape (n, 2)."""
    values = unit.astype(np.float32)
    values -= values.mean(axis=0)
    left, size, _ = np.linalg.svd(values, full_matrices=False)
    found = np.zeros((len(values), 2), np.float32)
    found[:, : min(2, len(size))] = (left * size)[:, :2]
    return found


def neighbours_kept(unit: npt.NDArray[np.float16]) -> Points:
    """Places in which near vectors, shape (n, D), stay near, shape (n, 2): t-SNE (van der Maaten and Hinton, 2008)."""
    if len(unit) < 4:
        return main_directions(unit)
    from sklearn.manifold import TSNE

    perplexity = min(PERPLEXITY, (len(unit) - 1) / 3)
    found: Points = TSNE(perplexity=perplexity, max_iter=STEPS, init="pca", random_state=SEED).fit_transform(
        unit.astype(np.float32)
    )
    return found


def _within(places: Points) -> npt.NDArray[np.float64]:
    """Places from 0 to 1 in each direction."""
    low, span = places.min(axis=0), np.ptp(places, axis=0)
    return np.asarray((places - low) / np.where(span > 0, span, 1), np.float64)


def _bins(values: npt.NDArray[np.float64]) -> tuple[list[str], list[str]]:
    """Numbers as words for groups of about one size, and these words in ascending order."""
    known = values[np.isfinite(values)]
    if not len(known):
        return [""] * len(values), []
    bounds = np.unique(np.quantile(known, np.linspace(0, 1, BINS + 1)))
    if len(bounds) < 2:
        return [f"{value:.3g}" if np.isfinite(value) else "" for value in values], [f"{bounds[0]:.3g}"]
    words = [f"{low:.3g} to {high:.3g}" for low, high in pairwise(bounds)]
    places = np.clip(np.searchsorted(bounds, values, side="right") - 1, 0, len(words) - 1)
    return [words[place] if np.isfinite(v) else "" for place, v in zip(places, values, strict=True)], words
