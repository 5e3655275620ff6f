"""Scores of one user's candidates, online: raw values in, probabilities out, vectors by image id.

scorer = Scorer.load("runs/din", server="localhost:7070")
scorer.score({"user_id": "u1", "hist_item_id": ["i7", "i3"], …}, {"item_id": ["i1", "i2"], "image_id": [1, None]})
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch

from features.batch import NULL_IMAGE, Batch, BatchImages, Int64Array, Jagged
from features.times import seconds
from features.vocabulary import Vocabularies, tokenize
from imgserver.client import ImageClient
from imgserver.errors import BadInput
from imgserver.keys import Column, column_of, image_ids, is_text, keys, texts
from imgserver.names import ImageNames
from trainer.checkpoint import Lineage, load_model
from trainer.evaluate import Predictor
from trainer.exported import Exported
from trainer.image_head import ImageHead, vectors_of
from trainer.layers.inputs import CONTEXT
from trainer.tensors import to_tensors

CPU = torch.device("cpu")
UNNAMED = "image names that the manifest lacks"  # beside names of columns
log = logging.getLogger(__name__)


class Scorer:
    """A model with its vocabulary, ready for requests.

    Args:
        predictor: gives probabilities.
        lineage: what it was trained with.
        vocabulary: raw values to places; kept as dictionaries, some 100 bytes a value.
        client: where vectors come from; None for a model without images.
        names: of images, for requests that give them; None: requests give ids.
    """

    def __init__(
        self,
        predictor: Predictor,
        lineage: Lineage,
        vocabulary: Vocabularies,
        client: ImageClient | None,
        names: ImageNames | None = None,
    ):
        self._predictor, self._spec, self._names = predictor, lineage.inputs, names
        self._said: set[str] = set()
        needed = [*self._spec.vocabularies, *([CONTEXT] if self._spec.actions else [])]
        if absent := [name for name in needed if name not in vocabulary.values]:
            raise BadInput(f"The model has a column {absent[0]!r} that its vocabulary lacks: its file is damaged.")
        self._vectors = ImageHead(client) if client is not None else None
        self._places = {
            name: {value: place for place, value in enumerate(values.to_pylist(), 1)}
            for name, values in vocabulary.values.items()
        }

    @classmethod
    def load(
        cls,
        path: str | Path,
        samples: str | Path = "",
        server: str | ImageClient = "localhost:7070",
        manifest: str | Path = "",
    ) -> Scorer:
        """Load a run folder, or what ``trainer export`` wrote.

        Args:
            path: the run folder, or the exported file.
            samples: folder of samples of a run, for its vocabulary; empty takes the one it was trained with. An
                exported model has its own vocabulary.
            server: address of the image server, or a client; a model without images asks nobody.
            manifest: of ``imgserver manifest``, where requests give images by the names that it has, as text.

        Raises:
            BadInput: there is no model, or the vocabulary is another, or the manifest cannot be read.
            VersionMismatch: the server has no vectors of the version that the model was trained with.
        """
        predictor: Predictor
        if Path(path).is_dir():  # a run folder
            model, lineage, config = load_model(path)
            samples = samples or config["samples"]
            predictor, vocabulary = model.served(), Vocabularies.load(Path(samples))
        else:
            predictor, samples = Exported(path), path
            lineage, vocabulary = predictor.lineage, Vocabularies.read(predictor.vocabulary)
        if vocabulary.hash != lineage.vocabulary_hash:
            raise BadInput(f"The vocabulary in {samples} is another one than the model {path} was trained with.")
        client = None
        if lineage.vector_version:
            client = ImageClient(server) if isinstance(server, str) else server
            client.version = lineage.vector_version
        return cls(predictor, lineage, vocabulary, client, ImageNames.read(manifest) if manifest else None)

    def score(
        self, user: Mapping[str, Any], candidates: Mapping[str, Sequence[Any]], now_s: float | None = None
    ) -> npt.NDArray[np.float32]:
        """Probabilities of the labels for each candidate, shape (n,), or (n, L) with several labels.

        Args:
            user: raw values by the samples' column names: the user's ids, and the behaviours, oldest first, as lists of
                one length: ``hist_item_id`` and the item's other id columns, ``hist_action``, ``hist_time`` (seconds),
                ``hist_image_id``. A column that is not given is unknown; which those are is logged once.
            candidates: lists of one length by column name: ``item_id``, its other id columns, text columns,
                ``image_id``. None is unknown, and no image; so is a name that the manifest lacks, which is logged once.
            now_s: seconds, the time of the impression; now when it is not given.

        Raises:
            BadInput: a column is unknown to the model, lists differ in length, or a value is no key, image id or time.
            ServerUnavailable, DeadlineExceeded, VersionMismatch: the vectors could not be had.
        """
        batch = self._batch(user, candidates, time.time() if now_s is None else now_s)
        with torch.inference_mode():
            vectors = vectors_of(self._vectors, batch, None)
            scores = self._predictor.probabilities(to_tensors(batch, CPU), vectors).numpy()
        return scores[:, 0] if scores.shape[1] == 1 else scores

    def _batch(self, user: Mapping[str, Any], candidates: Mapping[str, Sequence[Any]], now_s: float) -> Batch:
        spec = self._spec
        of_item = [*spec.item_columns, *(["image_id"] if spec.image_vocabulary_size else [])]
        history = [f"hist_{name}" for name in (*of_item, CONTEXT, "time")] if spec.actions else []
        _known("user", user, [*spec.user_columns, *history])
        _known("candidates", candidates, [*of_item, *spec.text_columns])
        self._say_missing("user", user, [*spec.user_columns, *history])
        self._say_missing("candidates", candidates, [*of_item, *spec.text_columns])
        n = _length("candidates", candidates, [*of_item, *spec.text_columns])
        length = _length("user", user, history)
        latest = slice(max(0, length - spec.max_history), length)
        length = latest.stop - latest.start
        offsets = np.arange(n + 1, dtype=np.int64) * length

        def behaviours(name: str) -> Column:
            return column_of(user.get(f"hist_{name}", [None] * latest.stop)[latest], f"hist_{name}", "the user")

        def of_candidates(name: str) -> Column:
            return column_of(candidates.get(name, [None] * n), name, "the candidates")

        now = int(seconds(column_of([now_s], "now_s", "the request"))[0])
        times = _times(behaviours("time"), now) if history else np.zeros(0, dtype=np.int64)
        shared = (
            {name: self._encode(name, keys(behaviours(name))) for name in (*spec.item_columns, CONTEXT)}
            if history
            else {}
        )
        ids = {
            name: np.repeat(self._encode(name, keys(column_of([user.get(name)], name, "the user"))), n)
            for name in spec.user_columns
        }
        ids |= {name: self._encode(name, keys(of_candidates(name))) for name in spec.item_columns}
        images = None
        if spec.image_vocabulary_size:
            shown = self._ids(behaviours("image_id")) if history else np.zeros(0, dtype=np.int64)
            images = self._images(self._ids(of_candidates("image_id")), shown, offsets)
        return Batch(
            labels={},
            timestamp=np.full(n, now),
            ids=ids,
            history={name: Jagged(np.tile(places, n), offsets) for name, places in shared.items()},
            history_age_s=np.tile(np.maximum(now - times, 1), n),
            text={name: self._text(name, texts(of_candidates(name))) for name in spec.text_columns},
            images=images,
        )

    def _say_missing(self, what: str, given: Mapping[str, Any], columns: Sequence[str]) -> None:
        """Log which columns a request lacks, each of them in the first request that does."""
        missing = [name for name in columns if name not in given]
        if new := [name for name in missing if name not in self._said]:
            self._said.update(new)
            log.warning(
                "the %s of a request lack %s: unknown to the model here, and in later requests that lack it",
                what,
                ", ".join(map(repr, new)),
            )

    def _ids(self, images: Column) -> Int64Array:
        """Image ids of what a request gives, where it may give names."""
        images = images.plain()
        if self._names is None or not is_text(images.values.type):
            return image_ids(images)
        found = self._names.find(images.values)
        absent = images.values.filter(pc.and_(pc.is_valid(images.values), pa.array(found == NULL_IMAGE)))
        if len(absent) and UNNAMED not in self._said:
            self._said.add(UNNAMED)
            log.warning("the manifest has no image %r: it and others like it count as no image", absent[0].as_py())
        return found

    def _encode(self, column: str, found: pa.Array) -> Int64Array:
        places = self._places[column]
        return np.array([places.get(key, 0) for key in found.to_pylist()], dtype=np.int64)

    def _text(self, column: str, found: pa.Array) -> Jagged:
        words = tokenize(found)
        return Jagged(self._encode(column, words.values), np.asarray(words.offsets).astype(np.int64))

    def _images(self, target: Int64Array, shown: Int64Array, offsets: Int64Array) -> BatchImages:
        every = np.concatenate([target, shown])
        unique, index = np.unique(every, return_inverse=True)
        null = int(len(unique) > 0 and unique[0] == NULL_IMAGE)
        unique, index = unique[null:], index.reshape(-1) - null
        n = len(target)
        history = Jagged(np.tile(index[n:], n), offsets)
        return BatchImages(unique, self._encode("image_id", pa.array(unique).cast(pa.string())), index[:n], history)


def _times(column: Column, now: int) -> Int64Array:
    """When behaviours were; one of an unknown time was now."""
    there = pc.is_valid(column.values)
    found = np.full(len(column.values), now, dtype=np.int64)
    found[np.asarray(there)] = seconds(replace(column, values=column.values.filter(there)))
    return found


def _known(what: str, given: Mapping[str, Any], known: Sequence[str]) -> None:
    if unknown := [name for name in given if name not in known]:
        raise BadInput(f"The {what} have a column {unknown[0]!r}; the model knows: {', '.join(known)}.")


def _length(what: str, given: Mapping[str, Sequence[Any]], columns: Sequence[str]) -> int:
    lengths = {name: len(given[name]) for name in columns if name in given}
    if len(set(lengths.values())) > 1:
        raise BadInput(f"The {what} have lists of several lengths: {lengths}; all must have one.")
    return next(iter(lengths.values()), 0)
