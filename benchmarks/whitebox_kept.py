"""How much of what pictures are worth to DIN does the white box keep?

kept = (concepts - ids) / (DIN with pictures - ids), where ids is DIN with ids only, all on the same test rows. Its
interval is over users, items and seeds, drawn for all three at once (``trainer.metrics.bootstrap``). Where DIN's own
gain is below twice its deviation over the seeds, a share of it says nothing: it is reported and not counted.

H&M is measured on ids alone and on ids with attributes, on rows of products that training never saw (a product is the
first seven digits of an article), with the recipe of ``examples/fashion/study.py --today``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
import pyarrow.parquet as pq

from crossmedia.features.reading.samples import Samples
from crossmedia.features.reading.unseen_items import samples_of
from crossmedia.trainer.fit import FitConfig, fit
from crossmedia.trainer.intervals import JudgedRows
from crossmedia.trainer.metrics.bootstrap import NORMAL95, Metric, differences_over

IDS, PICTURES, WHITE = "DIN, ids only", "DIN, concepts", "concepts"
SIDES = (IDS, PICTURES, WHITE)
PRODUCT_DIGITS = 7
UNSEEN_PRODUCTS = "unseen_products"
FASHION: dict[str, Any] = {"epochs": 8, "batch_size": 512, "id_dropout": 0.5, "validate_on": "unseen-items"}
NARROW = {"activation": "batch_norm", "attention_hidden": (16,), "softmax": True}
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Kept:
    """What is kept of DIN's gain.

    Attributes:
        share: of the gain; nan where there is none.
        low, high: its 95 % interval.
        gain: of DIN by pictures, in the metric.
        deviation: of that gain over the seeds.
        seeds: how many.
    """

    share: float
    low: float
    high: float
    gain: float
    deviation: float
    seeds: int

    @property
    def counted(self) -> bool:
        """Whether DIN gains enough for a share of it to mean something."""
        return self.gain > 2 * self.deviation


def kept(test: JudgedRows, part: str, metric: Metric, sides: Mapping[str, Sequence[Array]]) -> Kept:
    """What is kept on a part of the test rows.

    Args:
        test: the rows.
        part: name of the part.
        metric: that gains are in.
        sides: of each of ``SIDES`` what every seed predicts, in the same order.
    """
    own, din = (test.paired(part, metric, sides[name], sides[IDS]) for name in (WHITE, PICTURES))
    (ours, our_draws), (theirs, their_draws) = (differences_over([rows], metric=metric) for rows in (own, din))
    each = [
        differences_over([test.paired(part, metric, [one], [ids])], metric=metric, draws=0)[0]
        for one, ids in zip(sides[PICTURES], sides[IDS], strict=True)
    ]
    share = ours / theirs
    # Of the ratio by what it varies with (Fieller's numerator): a draw with a gain near 0 has no say.
    half = NORMAL95 * float(np.nanstd(our_draws - share * their_draws, ddof=1)) / abs(theirs)
    deviation = float(np.std(each, ddof=1)) if len(each) > 1 else float("nan")
    return Kept(share, share - half, share + half, theirs, deviation, len(each))


def fashion_rows(samples: Samples) -> JudgedRows:
    """The test rows of H&M, with those of products that no training row shows as a part of their own."""
    seen = samples.vocabulary.values["item_id"].filter(samples.item_counts()[1:] > 0)
    articles = samples.frame("test", ["raw_item_id"])["raw_item_id"]
    product = pc.utf8_slice_codeunits(articles, 0, PRODUCT_DIGITS)
    known = pc.is_in(product, value_set=pc.utf8_slice_codeunits(seen, 0, PRODUCT_DIGITS))
    test = JudgedRows.of(samples, "")
    return replace(test, parts={**test.parts, UNSEEN_PRODUCTS: ~np.asarray(known)})


def fashion_config(samples: str, store: str, side: str, seed: int, out: Path) -> FitConfig:
    """What one run on H&M is trained with."""
    images = side != IDS
    return FitConfig(
        samples=samples,
        out=str(out / f"{Path(samples).name}-{side.replace(', ', '-').replace(' ', '-')}-{seed}"),
        model="concepts" if side == WHITE else "din",
        images=images,
        vectors={"photo": store} if images else {},
        seed=seed,
        options={} if side == WHITE else NARROW,
        **FASHION,
    )


def fashion(samples: str, store: str, seeds: int, out: Path) -> dict[str, Kept]:
    """What is kept on H&M, by part of the test rows; runs that ended before are not repeated.

    Args:
        samples: of H&M.
        store: with concepts, which are active.
        seeds: how many.
        out: folder of the runs.
    """
    predicted: dict[str, list[Array]] = {side: [] for side in SIDES}
    for seed in range(seeds):
        for side in SIDES:
            result = fit(fashion_config(samples, store, side, seed, out))
            predicted[side].append(predictions(Path(result["out"])))
    test = fashion_rows(samples_of(samples, FASHION["validate_on"]))
    return {part: kept(test, part, "gauc", predicted) for part in ("all", UNSEEN_PRODUCTS)}


def predictions(run: Path) -> Array:
    """What a run predicts of the test rows, shape (N,)."""
    found: Array = pq.read_table(run / "predictions.parquet")["probability"].to_numpy()
    return found
