"""Scores of one user's candidates, online: raw values in, probabilities out, vectors by image id.

scorer = Scorer.load("runs/din", server="localhost:7070")
scorer.score({"user_id": "u1", "hist_item_id": ["i7", "i3"], …}, {"item_id": ["i1", "i2"], "image_id": [1, None]})
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from crossmedia.arguments import check_places, check_whole, must
from crossmedia.concepts import ConceptCard
from crossmedia.errors import BadInput
from crossmedia.features.columns import ACTION, HISTORY, ITEM
from crossmedia.features.reading.known_items import KnownItems, known_items, read_items
from crossmedia.features.reading.request import RequestReader
from crossmedia.features.vocabulary import Vocabularies
from crossmedia.imgserver.client import ImageClient
from crossmedia.names import ImageNames
from crossmedia.trainer.answers import Answer, statuses
from crossmedia.trainer.evaluate import Predictor
from crossmedia.trainer.feed import Fed
from crossmedia.trainer.images.image_head import StoredVectors
from crossmedia.trainer.images.images import Images
from crossmedia.trainer.images.spaces import Spaces
from crossmedia.trainer.model_files import ModelFile, absolute, absolute_all, clients_of, names_of, request_columns
from crossmedia.trainer.models.base import Model
from crossmedia.trainer.models.concepts import Concepts
from crossmedia.trainer.reasons.contributions import additive, contributions, with_preferences
from crossmedia.trainer.reasons.explained import Explained
from crossmedia.trainer.reasons.preferences import as_columns, effects, of_concepts, shifted
from crossmedia.trainer.reasons.sentences import sentence
from crossmedia.trainer.reasons.tables import done_of_request
from crossmedia.trainer.runs.checkpoint import Lineage
from crossmedia.trainer.tensors import SpaceVectors

CPU = torch.device("cpu")


class Scorer:
    """A model with its vocabulary, ready for requests.

    Args:
        predictor: gives probabilities.
        lineage: what it was trained with.
        vocabulary: raw values to places; kept as dictionaries, some 100 bytes a value.
        clients: where the vectors of each space come from; none for a model without images.
        names: of images, for requests that give them; None: requests give ids.
        item_names: the same of items, by the space that is keyed by them.
        cards: what the numbers of vectors mean, by space; None: the servers are asked when it is needed.
        images: makes what gives the vectors of a space of its client.

    Attributes:
        lineage: as given.
        digest: of what it was loaded from, see ``ModelFile``; empty of one that was made of its parts.
        items: that requests name by their ids alone; None: what a request does not say of an item is unknown. May be
            set at any time.

    Example:
        >>> from crossmedia import Scorer
        >>> scorer = Scorer.load("runs/din", server="localhost:7070")
        >>> scores = scorer.score({"user_id": "u1"}, {"item_id": ["i1", "i2"], "image_id": [1, None]})
        >>> scores.shape
        (2,)
    """

    def __init__(
        self,
        predictor: Predictor,
        lineage: Lineage,
        vocabulary: Vocabularies,
        clients: Mapping[str, ImageClient],
        names: ImageNames | None = None,
        item_names: Mapping[str, ImageNames] | None = None,
        cards: Mapping[str, ConceptCard] | None = None,
        images: Callable[[ImageClient], Images] = StoredVectors,
    ):
        self._predictor, spec, self._cards = predictor, lineage.inputs, cards
        self.lineage = lineage
        self.digest = ""
        self.items: KnownItems | None = None
        needed = [*spec.vocabularies, *([ACTION] if spec.actions else [])]
        if absent := [name for name in needed if name not in vocabulary.values]:
            raise BadInput(f"The model has a column {absent[0]!r} that its vocabulary lacks: its file is damaged.")
        self.spaces = Spaces({name: images(client) for name, client in clients.items()})
        self.columns = request_columns(spec)
        self._requests = RequestReader(self.columns, vocabulary, names, item_names, lambda: self.items)
        self._actions = vocabulary.values.get(ACTION)
        self._load_again: Callable[[], Scorer] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """In another process it is loaded again, from where it was loaded here, and connects anew.

        Raises:
            BadInput: it was not made by ``load``.
        """
        if self._load_again is None:
            raise BadInput(
                "A Scorer that was made of its parts cannot be sent to another process. Make it there, or use "
                "Scorer.load(...), whose scorers can be sent."
            )
        return self._load_again, ()

    @classmethod
    def load(
        cls,
        path: str | Path,
        samples: str | Path = "",
        server: str | ImageClient | Mapping[str, str | ImageClient] = "localhost:7070",
        manifest: str | Path | Mapping[str, str | Path] = "",
        cache_bytes: int = 0,
        items: str | Path | None = None,
        images: Callable[[ImageClient], Images] = StoredVectors,
        trust_native: Collection[str] = (),
    ) -> Scorer:
        """Load a run folder, or what ``trainer export`` wrote.

        Args:
            path: the run folder, or the exported file; still there where the scorer is sent to another process.
            samples: folder of samples of a run, for its vocabulary; empty takes the one it was trained with. An
                exported model has its own vocabulary.
            server: address of the image server, or a client; for a model with several spaces of vectors one for each,
                by its name. A model without images asks nobody.
            manifest: of ``imgserver manifest``, where requests give images by the names that it has: whatever they
                give is a name then, numbers too, as for ``image_manifest`` of ``features build``. Of several spaces,
                and of one that is keyed by item, one by its name.
            cache_bytes: of the client of each space that is made here, see ``ImageClient``: vectors of items that many
                requests show are not fetched again. 0: none. A client that is given keeps its own.
            items: Parquet file of items, so that requests may name candidates and behaviours by ``item_id`` alone: the
                item table of the samples, or raw values in columns that are named as in the samples. Empty: the table
                that the export carries, or that of the run's samples. None: what a request does not say is unknown.
            images: makes what gives the vectors of a space of its client.
            trust_native: sha256 digests of exported files that may hold native code (``form="aoti"``), which can do
                with this process what it likes. Others are refused.

        Raises:
            BadInput: there is no model, or the vocabulary is another, or the manifest or the items cannot be read, or a
                space of the model has no server; or the file holds native code, and its digest is not named.
            VersionMismatch: the server has no vectors of the version that the model was trained with.
        """
        check_places(
            path=path, samples=samples, **(manifest if isinstance(manifest, Mapping) else {"manifest": manifest})
        )
        for given in server.values() if isinstance(server, Mapping) else (server,):
            must(
                isinstance(given, str | ImageClient),
                "server",
                given,
                "an address such as 'localhost:7070', or a client",
            )
        file = ModelFile.read(path, samples, trust_native)
        clients = clients_of(server, file.lineage.versions, cache_bytes)
        names, item_names = names_of(manifest, file.lineage.inputs.space_keys)
        scorer = cls(file.predictor, file.lineage, file.vocabulary, clients, names, item_names, file.cards, images)
        scorer.digest = file.digest
        if items is not None:
            scorer.items = scorer.read_items(items) if os.fspath(items) else scorer.items_of(file)
        used = file.samples if Path(path).is_dir() else samples
        places = absolute(path), absolute(used), server, absolute_all(manifest)
        again = partial(cls.load, *places, cache_bytes=cache_bytes, images=images, trust_native=trust_native)
        scorer._load_again = partial(again, items=items if items is None else absolute(items))
        return scorer

    @overload
    def score(
        self,
        user: Mapping[str, Any],
        candidates: Mapping[str, Any] | pa.Table,
        now_s: float | None = None,
        *,
        reasons: int,
        preferences: Mapping[str, float] = ...,
        never_said: Collection[str] = ...,
    ) -> Explained: ...

    @overload
    def score(
        self,
        user: Mapping[str, Any],
        candidates: Mapping[str, Any] | pa.Table,
        now_s: float | None = None,
        *,
        reasons: Literal[0] = 0,
        preferences: Mapping[str, float] = ...,
        never_said: Collection[str] = ...,
    ) -> npt.NDArray[np.float32]: ...

    def score(
        self,
        user: Mapping[str, Any],
        candidates: Mapping[str, Any] | pa.Table,
        now_s: float | None = None,
        *,
        reasons: int = 0,
        preferences: Mapping[str, float] = MappingProxyType({}),
        never_said: Collection[str] = (),
    ) -> npt.NDArray[np.float32] | Explained:
        """Probabilities of the labels for each candidate, shape (n,), or (n, L) with several labels.

        Args:
            user: raw values by the samples' column names: what the user and the impression have, and the behaviours,
                oldest first, as lists of one length: ``hist_item_id`` and what else an item has, ``hist_action``,
                ``hist_time`` (seconds), ``hist_image_id``. A column that is not given is unknown; which those are is
                logged once.
            candidates: lists of one length by column name, or a frame of pandas, or a table of Arrow: ``item_id``, its
                other ids, numbers, lists and texts, ``image_id`` (a list where an item has several); and what the
                impression has, where candidates differ in it. None is unknown, and no image; so is a name that the
                manifest lacks (see ``unmatched``).
            now_s: seconds, the time of the impression; now when it is not given. Behaviours that are later, or seem to
                be in another unit, are logged once.
            reasons: so many of each candidate, with a sentence for the shopper; 0: probabilities alone. Only a run of
                ``concepts`` has them.
            preferences: what the user asked for by the name of a concept, from -1 (less of it) to 1 (more): each adds
                its weight times how much of the concept the photo has, from 0 to 3 standard deviations, to the logits.
            never_said: words beside those of ``NEVER_SAID`` that no sentence is about.

        Returns:
            the probabilities; with ``reasons`` what explains them, too.

        Raises:
            BadInput: a column is unknown to the model or is no list, lists differ in length, or a value is no key,
                image id or time; there is no such concept; or the model has no reasons.
            ServerUnavailable, DeadlineExceeded, VersionMismatch: the vectors could not be had.
        """
        answer = self.answer(user, candidates, now_s, reasons=reasons, preferences=preferences, never_said=never_said)
        return answer.explained or _of_one_label(answer.probabilities)

    def answer(
        self,
        user: Mapping[str, Any],
        candidates: Mapping[str, Any] | pa.Table,
        now_s: float | None = None,
        *,
        reasons: int = 0,
        preferences: Mapping[str, float] = MappingProxyType({}),
        never_said: Collection[str] = (),
    ) -> Answer:
        """As ``score``, with what the scores rest on: of each candidate whether its vectors were there.

        Example:
            >>> from crossmedia import Scorer
            >>> scorer = Scorer.load("runs/din", server="localhost:7070")
            >>> scorer.answer({"user_id": "u1"}, {"item_id": ["i1", "i2"], "image_id": [1, None]}).status.tolist()
            [1, 2]
        """
        self._check_reasons(reasons)
        now = time.time() if now_s is None else now_s
        batch = self._requests.batch(user, candidates, now)
        with torch.inference_mode():
            unfetched = Fed.of(batch, CPU)
            fetched = self.spaces.fetch(unfetched.keys)
            fed = replace(unfetched, fetched=fetched)
            vectors = fed.vectors(self.spaces)
        wanted = effects(preferences, self._known_cards(), fed.tensors, vectors) if preferences else {}
        answer = Answer(
            self._probabilities(fed, vectors, wanted), statuses(batch, fetched, self._requests.looks_up(candidates))
        )
        if not (reasons and isinstance(self._predictor, Model)):
            return answer
        cards, probabilities = self._known_cards(), _of_one_label(answer.probabilities)
        found = contributions(self._predictor, fed.tensors, vectors, cards)
        found = with_preferences(found, wanted, of_concepts(preferences, cards))
        done = done_of_request(batch, user, self._actions)
        first = len(given) - len(done) if (given := user.get(HISTORY + ITEM)) is not None else 0
        sentences = tuple(sentence(found, row, done, now, never_said) for row in range(len(batch)))
        explained = Explained.of(found, probabilities, reasons, sentences, first, as_columns(preferences))
        return replace(answer, explained=explained)

    @property
    def gives_reasons(self) -> bool:
        """Whether it can say what its scores are made of."""
        return isinstance(self._predictor, Model) and isinstance(self._predictor.served(), Concepts)

    def read_items(self, path: str | Path) -> KnownItems:
        """Items that requests may name by their ids alone: an item table of samples, or a table of raw values.

        Args:
            path: of a Parquet file.

        Raises:
            BadInput: it cannot be read, lacks a column, or names an item twice.
        """
        return self._items(read_items(Path(path)), str(path))

    def items_of(self, file: ModelFile) -> KnownItems | None:
        """Those that belong to a model; None: it has none.

        Raises:
            BadInput: they cannot be read.
        """
        table = file.items()
        return None if table is None else self._items(table, str(file.path))

    def _items(self, table: pa.Table, what: str) -> KnownItems:
        columns, encode = self.columns.items, self._requests.encoded
        return known_items(table, columns, encode, self.lineage.vocabulary_hash, what)

    def _check_reasons(self, reasons: int) -> None:
        check_whole("reasons", reasons, least=0)
        if reasons and not isinstance(self._predictor, Model):
            raise BadInput("An exported model gives probabilities alone. For reasons load the run folder.")
        if reasons and isinstance(self._predictor, Model):
            additive(self._predictor)

    def _probabilities(
        self, fed: Fed, vectors: SpaceVectors, wanted: Mapping[str, npt.NDArray[np.float32]]
    ) -> npt.NDArray[np.float32]:
        """As ``score`` gives them, moved by what each preference adds to the logits."""
        with torch.inference_mode():
            scores = self._predictor.probabilities(fed.tensors, vectors).numpy()
        if wanted:
            scores = shifted(scores, np.sum(list(wanted.values()), axis=0))
        found: npt.NDArray[np.float32] = scores
        return found

    def _known_cards(self) -> Mapping[str, ConceptCard]:
        """What the numbers of vectors mean; asked once where the run does not say."""
        if self._cards is None:
            self._cards = self.spaces.cards()
        return self._cards

    def unmatched(self) -> dict[str, int]:
        """What requests gave so far and nothing matched: kind -> how many values.

        Counted are names of images that the manifest lacks, actions that are in no training row, and ids that are
        unknown as they are written and known in another Unicode form, letter case, or without blanks. Each kind is
        logged, with examples, at the first and whenever there are ten times as many. Other ids that training did not
        know are not counted: new users and items are to be expected.
        """
        return self._requests.unmatched.counts()


def _of_one_label(probabilities: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Shape (n,) of one label, (n, L) of several."""
    found: npt.NDArray[np.float32] = probabilities[:, 0] if probabilities.shape[1] == 1 else probabilities
    return found
