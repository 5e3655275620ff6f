"""The reasons of every row of a part of the samples, as a file.

    crossmedia trainer explain runs/white --samples samples --out reasons.parquet

Legend: B rows of a batch, T terms.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from crossmedia.arguments import check_places, check_seconds, check_whole
from crossmedia.concepts import ConceptCard
from crossmedia.disk import replacing
from crossmedia.errors import BadInput, did_you_mean
from crossmedia.features.batch import Batch
from crossmedia.features.columns import ITEM
from crossmedia.features.reading.samples import Samples
from crossmedia.trainer.feed import Fed
from crossmedia.trainer.images.open_images import open_versions
from crossmedia.trainer.images.places import Sources
from crossmedia.trainer.images.spaces import Spaces
from crossmedia.trainer.models.base import EmbeddingModel, Model
from crossmedia.trainer.reasons.contributions import contributions, is_additive
from crossmedia.trainer.reasons.gradients import integrated_gradients
from crossmedia.trainer.reasons.rows import Added
from crossmedia.trainer.runs.checkpoint import load_cards, load_model, samples_folder

EXACT, APPROXIMATION = "exact", "integrated gradients"
BATCH = 256
CPU = torch.device("cpu")
COLUMNS = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("term", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        pa.field("contribution", pa.float32(), nullable=False),
        pa.field("behaviour", pa.int32()),
        pa.field("behaviour_id", pa.string()),
    ]
)


def explain(
    run: str | Path,
    out: str | Path = "reasons.parquet",
    *,
    samples: str | Path = "",
    split: str = "test",
    rows: int = 0,
    reasons: int = 0,
    label: str = "",
    server: str = "",
    store: str | Path = "",
    vectors: Mapping[str, str] = MappingProxyType({}),
    timeout_s: float = 30.0,
    announce: Any = lambda text: None,
) -> dict[str, Any]:
    """Write what each term adds to the logit of each row, and of which behaviour it comes most.

    Of ``concepts``, alone or as the light net of Rocket, it is exact: the contributions of a row sum to its logit. Of
    other models that start from embeddings it is an approximation, by integrated gradients (Sundararajan et al., ICML
    2017), and the terms are columns; this takes some 50 passes a row, and needs captum.

    Args:
        run: its folder.
        out: the Parquet file: ``row`` (number in the split), ``term``, ``contribution``, ``behaviour`` (its place in
            the history, the oldest being 0) and ``behaviour_id``, the item's own id. What the contributions are
            stands in its metadata, ``contributions``.
        samples: folder of samples; empty takes the run's own.
        split: ``train``, ``validation`` or ``test``.
        rows: the first so many; 0: all.
        reasons: so many terms of each row, the largest whichever way; 0: all that are not 0.
        label: of the model's; empty: the first.
        server: as for ``evaluate``, and so are the next two.
        store: a store in this process.
        vectors: by space.
        timeout_s: seconds that a fetch may take, retries included.
        announce: told which images there are no vectors of.

    Returns:
        the file as ``reasons``, what they are as ``contributions``, how many ``rows``, and the largest ``error`` of a
        row's sum.

    Raises:
        BadInput: the folder is no run, the samples have another vocabulary, or the model has no reasons.
        CrossMediaError: as ``evaluate``.
    """
    check_places(run=run, out=out, samples=samples, store=store)
    check_seconds(timeout_s)
    check_whole("rows", rows, least=0)
    check_whole("reasons", reasons, least=0)
    model, lineage, config = load_model(run)
    number = _number(label, lineage.inputs.labels)
    opened = Samples(samples_folder(run, config["samples"], samples))
    lineage.check_samples(opened)
    explainer = _Exact(model, load_cards(run), number) if is_additive(model) else _Approximation(model, number)
    sources = Sources.of_run(config, server, str(store), vectors)
    batches = _first(opened.batches(split, BATCH), rows or opened.rows(split))
    with open_versions(lineage.versions, opened, sources, timeout_s, announce) as spaces, replacing(Path(out)) as part:
        explained = ((batch, explainer(batch, spaces)) for batch in batches)
        found = _write(part, explained, opened.vocabulary.values[ITEM], reasons, explainer.what)
    return {"reasons": str(out), "contributions": explainer.what, **found}


def _write(
    part: Path, explained: Iterator[tuple[Batch, Added]], names: pa.Array, reasons: int, what: str
) -> dict[str, Any]:
    """The file of some batches and what is added in each; how many rows it has, and the largest error of a sum."""
    schema, error, done = COLUMNS.with_metadata({"contributions": what}), 0.0, 0
    with pq.ParquetWriter(part, schema) as writer:
        for batch, added in explained:
            error = max(error, added.error)
            writer.write_table(_table(added, batch, names, done, reasons, schema))
            done += len(batch)
    return {"rows": done, "error": error}


def _number(label: str, known: tuple[str, ...]) -> int:
    """Of a label among those of a run; the first when none is named."""
    if label and label not in known:
        raise BadInput(f"The run has no label {label!r}; there are: {', '.join(known)}.{did_you_mean(label, known)}")
    return known.index(label) if label else 0


class _Exact:
    what = EXACT

    def __init__(self, model: Model, cards: Mapping[str, ConceptCard], label: int):
        self._model, self._cards, self._label = model.served().eval(), cards, label

    def __call__(self, batch: Batch, spaces: Spaces) -> Added:
        fed = Fed.of(batch, CPU)
        with torch.inference_mode():
            vectors = fed.vectors(spaces)
            logits = self._model(fed.tensors, vectors)[:, self._label].numpy()
        return Added.of(contributions(self._model, fed.tensors, vectors, self._cards, self._label), logits)


class _Approximation:
    what = APPROXIMATION

    def __init__(self, model: Model, label: int):
        served = model.served().eval()
        if not isinstance(served, EmbeddingModel):
            raise BadInput("The model has no embeddings, so that there are no gradients to integrate. Explain another.")
        self._model, self._label = served, label

    def __call__(self, batch: Batch, spaces: Spaces) -> Added:
        return integrated_gradients(self._model, Fed.of(batch, CPU), spaces, self._label)


def _first(batches: Iterator[Batch], rows: int) -> Iterator[Batch]:
    for batch in batches:
        if rows <= 0:
            return
        yield batch if len(batch) <= rows else batch.take(np.arange(rows))
        rows -= len(batch)


def _table(added: Added, batch: Batch, names: pa.Array, first: int, reasons: int, schema: pa.Schema) -> pa.Table:
    """Rows of the file, of a batch whose first row is that of this number in the split."""
    row, term = _chosen(added.values, reasons)
    behaviour = added.behaviour[row, term]
    starts = batch.history.offsets[:-1]
    item = np.zeros(len(row), dtype=np.int64)
    some = behaviour >= 0
    item[some] = batch.items.ids[ITEM][batch.history.values[starts[row[some]] + behaviour[some]]]
    known = pa.array(item - 1, mask=item <= 0)
    columns = [
        pa.array(row + first),
        pa.DictionaryArray.from_arrays(pa.array(term.astype(np.int32)), pa.array(added.names)),
        pa.array(added.values[row, term]),
        pa.array(behaviour.astype(np.int32), mask=~some),
        names.take(known).cast(pa.string()),
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _chosen(values: npt.NDArray[np.float32], reasons: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rows and terms that are written, row after row, the largest first."""
    count = reasons or values.shape[1]
    order = np.argsort(-np.abs(values), axis=1, kind="stable")[:, :count]
    kept = np.take_along_axis(values, order, axis=1) != 0
    row, place = np.nonzero(kept)
    return row, order[row, place]


__all__ = ["explain"]
