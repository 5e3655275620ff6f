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

from crossmedia.errors import BadInput
from crossmedia.features.batch import NULL_IMAGE, Batch, BatchImages, Int64Array, Jagged
from crossmedia.features.times import Span, seconds
from crossmedia.features.vocabulary import Vocabularies, tokenize
from crossmedia.forms import near_in_words, other_spellings
from crossmedia.imgserver.client import ImageClient
from crossmedia.keys import Column, column_of, image_ids, keys, texts
from crossmedia.names import ImageNames
from crossmedia.trainer.evaluate import Predictor
from crossmedia.trainer.export.exported import Exported
from crossmedia.trainer.images.image_head import ImageHead, vectors_of
from crossmedia.trainer.layers.inputs import CONTEXT
from crossmedia.trainer.runs.checkpoint import Lineage, load_model
from crossmedia.trainer.tensors import to_tensors
from crossmedia.trainer.unmatched import Unmatched

CPU = torch.device("cpu")
MOST_ACTIONS = 20  # that a message lists
TIMES = "times that do not fit"  # beside names of columns
UNNAMED = "names of images that the manifest lacks"
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
        self._unmatched = Unmatched()
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
            manifest: of ``imgserver manifest``, where requests give images by the names that it has: whatever they
                give is a name then, numbers too, as for ``image_manifest`` of ``features build``.

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
        self, user: Mapping[str, Any], candidates: Mapping[str, Any] | pa.Table, now_s: float | None = None
    ) -> npt.NDArray[np.float32]:
        """Probabilities of the labels for each candidate, shape (n,), or (n, L) with several labels.

        Args:
            user: raw values by the samples' column names: the user's ids, and the behaviours, oldest first, as lists of
                one length: ``hist_item_id`` and the item's other id columns, ``hist_action``, ``hist_time`` (seconds),
                ``hist_image_id``. A column that is not given is unknown; which those are is logged once.
            candidates: lists of one length by column name, or a frame of pandas, or a table of Arrow: ``item_id``, its
                other id columns, text columns, ``image_id``. None is unknown, and no image; so is a name that the
                manifest lacks (see ``unmatched``).
            now_s: seconds, the time of the impression; now when it is not given. Behaviours that are later, or seem to
                be in another unit, are logged once.

        Raises:
            BadInput: a column is unknown to the model or is no list, lists differ in length, or a value is no key,
                image id or time.
            ServerUnavailable, DeadlineExceeded, VersionMismatch: the vectors could not be had.
        """
        batch = self._batch(user, candidates, time.time() if now_s is None else now_s)
        with torch.inference_mode():
            vectors = vectors_of(self._vectors, batch, None)
            scores = self._predictor.probabilities(to_tensors(batch, CPU), vectors).numpy()
        return scores[:, 0] if scores.shape[1] == 1 else scores

    def unmatched(self) -> dict[str, int]:
        """What requests gave so far and nothing matched: kind -> how many values.

        Counted are names of images that the manifest lacks, actions that are in no training row, and ids that are
        unknown as they are written and known in another Unicode form, letter case, or without blanks. Each kind is
        logged, with examples, at the first and whenever there are ten times as many. Other ids that training did not
        know are not counted: new users and items are to be expected.
        """
        return self._unmatched.counts()

    def _batch(self, user: Mapping[str, Any], candidates: Mapping[str, Any] | pa.Table, now_s: float) -> Batch:
        spec = self._spec
        of_item = [*spec.item_columns, *(["image_id"] if spec.image_vocabulary_size else [])]
        history = [f"hist_{name}" for name in (*of_item, CONTEXT, "time")] if spec.actions else []
        person, shown = _columns("user", user), _columns("candidates", candidates)
        _known("user", person, [*spec.user_columns, *history])
        _known("candidates", shown, [*of_item, *spec.text_columns])
        self._say_missing("user", person, [*spec.user_columns, *history])
        self._say_missing("candidates", shown, [*of_item, *spec.text_columns])
        found, n = _lists("candidates", shown, [*of_item, *spec.text_columns])
        behaviours, length = _lists("user", person, history)
        behaviours = {name: _latest(column, spec.max_history) for name, column in behaviours.items()}
        length = min(length, spec.max_history)
        offsets = np.arange(n + 1, dtype=np.int64) * length

        now = int(seconds(column_of([now_s], "now_s", "the request"))[0])
        times = self._times(behaviours["hist_time"], now) if history else np.zeros(0, dtype=np.int64)
        shared = (
            {name: self._ids_of(name, keys(behaviours[f"hist_{name}"])) for name in (*spec.item_columns, CONTEXT)}
            if history
            else {}
        )
        ids = {
            name: np.repeat(self._ids_of(name, keys(column_of([person.get(name)], name, "the user"))), n)
            for name in spec.user_columns
        }
        ids |= {name: self._ids_of(name, keys(found[name])) for name in spec.item_columns}
        images = None
        if spec.image_vocabulary_size:
            seen = self._ids(behaviours["hist_image_id"]) if history else np.zeros(0, dtype=np.int64)
            images = self._images(self._ids(found["image_id"]), seen, offsets)
        return Batch(
            labels={},
            timestamp=np.full(n, now),
            ids=ids,
            history={name: Jagged(np.tile(places, n), offsets) for name, places in shared.items()},
            history_age_s=np.tile(np.maximum(now - times, 1), n),
            text={name: self._text(name, texts(found[name])) for name in spec.text_columns},
            images=images,
        )

    def _times(self, column: Column, now: int) -> Int64Array:
        """When behaviours were; one of an unknown time was now."""
        there = pc.invert(pc.is_null(column.values, nan_is_null=True))
        span, of_request = Span(), Span()
        given = span.read(replace(column, values=column.values.filter(there)))
        span.check_dates()
        if len(given) and TIMES not in self._said:
            of_request.read(column_of([now], "now_s", "the request"))
            future = span.last.time > now
            if future or (span | of_request).two_units():
                self._said.add(TIMES)
                log.warning(
                    "the behaviours of a request are of %s (hist_time), and its own time is %s (now_s): %s. Both are "
                    "in seconds; later requests of that kind are not logged",
                    span,
                    of_request,
                    "behaviours lie in the future" if future else "they seem to be in two units",
                )
        found = np.full(len(column.values), now, dtype=np.int64)
        found[np.asarray(there)] = given
        return found

    def _say_missing(self, what: str, given: Mapping[str, Any], columns: Sequence[str]) -> None:
        """Log which columns a request lacks, each of them in the first request that does."""
        missing = [name for name in columns if name not in given]
        if new := [name for name in missing if name not in self._said]:
            self._said.update(new)
            log.warning(
                "the %s of a request %s %s: unknown to the model here, and in later requests that lack it",
                what,
                "lacks" if what == "user" else "lack",
                ", ".join(map(repr, new)),
            )

    def _ids(self, images: Column) -> Int64Array:
        """Image ids of what a request gives, where it may give names."""
        if self._names is None:
            return image_ids(images, "; for names give Scorer.load the manifest, too")
        names = keys(images)
        found = self._names.find(names)
        absent = names.filter(pc.and_(pc.is_valid(names), pa.array(found == NULL_IMAGE)))
        if len(absent):
            near = near_in_words(self._names.near(absent), len(absent))
            self._unmatched.add(UNNAMED, absent.to_pylist(), len(names), f"They count as no image.{near}".rstrip("."))
        return found

    def _encode(self, column: str, found: pa.Array) -> Int64Array:
        places = self._places[column]
        return np.array([places.get(key, 0) for key in found.to_pylist()], dtype=np.int64)

    def _ids_of(self, column: str, found: pa.Array) -> Int64Array:
        """Places of ids or actions; those that are most likely another one, written in another way, are counted."""
        encoded, places = self._encode(column, found), self._places[column]
        if encoded.all():
            return encoded
        unknown = [found[row].as_py() for row in np.flatnonzero(encoded == 0).tolist() if found[row].is_valid]
        if column == CONTEXT:
            known = ", ".join(map(ascii, sorted(places)[:MOST_ACTIONS]))
            self._unmatched.add(
                "actions that are in no training row", unknown, len(found), f"The model knows {known}, and no others"
            )
            return encoded
        other = {word: form for word in unknown for form in other_spellings(word) if form in places}
        if other:
            words, first = [word for word in unknown if word in other], next(iter(other))
            known = f"The model knows {other[first]!a}, and not {first!a}: write ids as the log did"
            self._unmatched.add(f"values of {column} in another spelling", words, len(found), known)
        return encoded

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


def _columns(what: str, given: Any) -> dict[str, Any]:
    """What a request gives, by the names of columns."""
    if what != "user" and isinstance(given, pa.Table | pa.RecordBatch):
        return dict(zip(given.column_names, given.columns, strict=True))
    frame = hasattr(given, "columns")  # of pandas, which is like a mapping
    if isinstance(given, Mapping) or (hasattr(given, "keys") and not (what == "user" and frame)):
        return {name: given[name] for name in given.keys()}  # noqa: SIM118  # a frame iterates over rows otherwise
    taken = "a dict of values and lists" if what == "user" else "a dict of lists, a pandas DataFrame or an Arrow table"
    raise BadInput(f"The {_is(what)} {_kind(given)}; give columns by name: {taken}.")


def _known(what: str, given: Mapping[str, Any], known: Sequence[str]) -> None:
    if unknown := [name for name in given if name not in known]:
        raise BadInput(f"The {_has(what)} a column {unknown[0]!r}; the model knows: {', '.join(known)}.")


def _lists(what: str, given: Mapping[str, Any], names: Sequence[str]) -> tuple[dict[str, Column], int]:
    """Columns of one length, nulls where one is not given, and that length."""
    found = {name: _list(what, name, given[name]) for name in names if name in given}
    lengths = {name: len(column.values) for name, column in found.items()}
    if len(set(lengths.values())) > 1:
        raise BadInput(f"The {_has(what)} lists of several lengths: {lengths}; all must have one.")
    length = next(iter(lengths.values()), 0)
    return {name: found.get(name) or Column(pa.nulls(length), name, f"the {what}") for name in names}, length


def _list(what: str, name: str, values: Any) -> Column:
    """A column of several values; text would be taken for a list of letters."""
    several = isinstance(values, Sequence | pa.Array | pa.ChunkedArray) or getattr(values, "ndim", 0) == 1
    if not several or isinstance(values, str | bytes):
        each = "behaviour" if what == "user" else "candidate"
        raise BadInput(f"The column {name!r} of the {what} is {_kind(values)}; give a list, a value for each {each}.")
    return column_of(values, name, f"the {what}")


def _latest(column: Column, most: int) -> Column:
    """The last values of a column, ``most`` of them."""
    first = max(0, len(column.values) - most)
    return replace(column, values=column.values[first:], first_row=first)


def _kind(value: Any) -> str:
    return "None" if value is None else f"of type {type(value).__name__}"


def _is(what: str) -> str:
    return "user is" if what == "user" else f"{what} are"


def _has(what: str) -> str:
    return "user has" if what == "user" else f"{what} have"
