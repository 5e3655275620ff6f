"""Scores of one user's candidates, online: raw values in, probabilities out, vectors by image id.

scorer = Scorer.load("runs/din", server="localhost:7070")
scorer.score({"user_id": "u1", "hist_item_id": ["i7", "i3"], …}, {"item_id": ["i1", "i2"], "image_id": [1, None]})
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Mapping
from copy import copy
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch

from crossmedia.arguments import check_places, check_whole, must
from crossmedia.concepts import ConceptCard
from crossmedia.errors import BadInput
from crossmedia.features.batch import Batch
from crossmedia.features.columns import ACTION, HISTORY, ITEM
from crossmedia.features.reading.request import RequestColumns, RequestReader
from crossmedia.features.spec import BY_IMAGE
from crossmedia.features.vocabulary import Vocabularies
from crossmedia.imgserver.client import ImageClient
from crossmedia.names import ImageNames
from crossmedia.trainer.evaluate import Predictor
from crossmedia.trainer.export.exported import Exported
from crossmedia.trainer.feed import Fed
from crossmedia.trainer.images.image_head import StoredVectors
from crossmedia.trainer.images.spaces import Spaces
from crossmedia.trainer.layers.spaces import mean_vectors
from crossmedia.trainer.models.base import Model
from crossmedia.trainer.reasons.contributions import contributions, with_preferences
from crossmedia.trainer.reasons.explained import Explained, reasons_of
from crossmedia.trainer.reasons.preferences import amount, as_columns, check_preferences, of_concepts, shifted
from crossmedia.trainer.reasons.sentences import Done, sentence
from crossmedia.trainer.reasons.tables import done_of
from crossmedia.trainer.runs.checkpoint import Lineage, load_cards, load_model, samples_folder
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
    ):
        self._predictor, spec, self._cards = predictor, lineage.inputs, cards
        needed = [*spec.vocabularies, *([ACTION] if spec.actions else [])]
        if absent := [name for name in needed if name not in vocabulary.values]:
            raise BadInput(f"The model has a column {absent[0]!r} that its vocabulary lacks: its file is damaged.")
        self._spaces = Spaces({name: StoredVectors(client) for name, client in clients.items()})
        columns = RequestColumns(
            tuple(spec.user_columns),
            tuple(spec.item_columns),
            spec.max_history if spec.actions else 0,
            images=spec.image_vocabulary_size > 0,
            numbers=spec.user_numbers,
            lists=tuple(spec.user_lists),
            of_log=spec.of_log,
            item_numbers=spec.item_numbers,
            item_lists=tuple(spec.item_lists),
            text=tuple(spec.text_columns),
            spaces=spec.space_keys,
        )
        self._requests = RequestReader(columns, vocabulary, names, item_names)
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

        Raises:
            BadInput: there is no model, or the vocabulary is another, or the manifest cannot be read, or a space of
                the model has no server.
            VersionMismatch: the server has no vectors of the version that the model was trained with.
        """
        predictor: Predictor
        cards: Mapping[str, ConceptCard] | None
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
        if Path(path).is_dir():  # a run folder
            model, lineage, config = load_model(path)
            samples = samples_folder(path, config["samples"], samples)
            predictor, vocabulary = model.served(), Vocabularies.load(Path(samples))
            cards = load_cards(path) or None  # a run of a former release kept none
        else:
            predictor, samples, cards = Exported(path), path, None
            lineage, vocabulary = predictor.lineage, Vocabularies.read(predictor.vocabulary)
        if vocabulary.hash != lineage.vocabulary_hash:
            raise BadInput(f"The vocabulary in {samples} is another one than the model {path} was trained with.")
        clients = {}
        for name, version in lineage.versions.items():
            given = _of_space(server, name, lineage.versions)
            # Who gave a client keeps its version.
            clients[name] = ImageClient(given, cache_bytes=cache_bytes) if isinstance(given, str) else copy(given)
            clients[name].version = version
        names, item_names = _names(manifest, lineage.inputs.space_keys)
        scorer = cls(predictor, lineage, vocabulary, clients, names, item_names, cards)
        places = _absolute(path), _absolute(samples), server, _absolute_all(manifest)
        scorer._load_again = partial(cls.load, *places, cache_bytes=cache_bytes)
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
        self._check_reasons(reasons)
        now = time.time() if now_s is None else now_s
        batch = self._requests.batch(user, candidates, now)
        with torch.inference_mode():
            fed = Fed.of(batch, CPU)
            vectors = fed.vectors(self._spaces)
        wanted = self._wanted(fed, vectors, preferences) if preferences else {}
        probabilities = self._probabilities(fed, vectors, wanted)
        if not (reasons and isinstance(self._predictor, Model)):
            return probabilities
        cards = self._known_cards()
        found = contributions(self._predictor, fed.tensors, vectors, cards)
        found = with_preferences(found, wanted, of_concepts(preferences, cards))
        done = self._done(batch, user) if len(batch) else []
        first = len(given) - len(done) if (given := user.get(HISTORY + ITEM)) is not None else 0
        return Explained(
            probabilities,
            tuple(reasons_of(found, row, reasons, first) for row in range(len(batch))),
            tuple(sentence(found, row, done, now, never_said) for row in range(len(batch))),
            found,
            first,
            as_columns(preferences),
        )

    def _check_reasons(self, reasons: int) -> None:
        check_whole("reasons", reasons, least=0)
        if reasons and not isinstance(self._predictor, Model):
            raise BadInput("An exported model gives probabilities alone. For reasons load the run folder.")

    def _probabilities(
        self, fed: Fed, vectors: SpaceVectors, wanted: Mapping[str, npt.NDArray[np.float32]]
    ) -> npt.NDArray[np.float32]:
        """As ``score`` gives them, moved by what each preference adds to the logits."""
        with torch.inference_mode():
            scores = self._predictor.probabilities(fed.tensors, vectors).numpy()
        if wanted:
            scores = shifted(scores, np.sum(list(wanted.values()), axis=0))
        found: npt.NDArray[np.float32] = scores[:, 0] if scores.shape[1] == 1 else scores
        return found

    def _done(self, batch: Batch, user: Mapping[str, Any]) -> list[Done]:
        """The behaviours of a request that the model saw, oldest first; without times where not all are given."""
        done, times = done_of(batch, 0, self._actions), user.get(HISTORY + "time")
        known = times is not None and not pc.is_null(pa.array(times), nan_is_null=True).to_numpy(False).any()
        return done if known else [replace(one, time_s=None) for one in done]

    def _known_cards(self) -> Mapping[str, ConceptCard]:
        """What the numbers of vectors mean; asked once where the run does not say."""
        if self._cards is None:
            self._cards = self._spaces.cards()
        return self._cards

    def _wanted(
        self, fed: Fed, vectors: SpaceVectors, preferences: Mapping[str, float]
    ) -> dict[str, npt.NDArray[np.float32]]:
        """What each preference adds to the logits, shape (n,)."""
        found, items, target = {}, fed.tensors.items, fed.tensors.target
        places = check_preferences(preferences, self._known_cards())
        for (name, weight), (space, place) in zip(preferences.items(), places, strict=True):
            of_items, _ = mean_vectors(vectors[space], items.vectors[space], items.count)
            found[name] = amount(weight, of_items[target, place].numpy())
        return found

    def unmatched(self) -> dict[str, int]:
        """What requests gave so far and nothing matched: kind -> how many values.

        Counted are names of images that the manifest lacks, actions that are in no training row, and ids that are
        unknown as they are written and known in another Unicode form, letter case, or without blanks. Each kind is
        logged, with examples, at the first and whenever there are ten times as many. Other ids that training did not
        know are not counted: new users and items are to be expected.
        """
        return self._requests.unmatched.counts()


def _absolute(place: str | Path) -> str:
    """The path of a place, wherever a process works; empty stays empty."""
    return os.path.abspath(place) if os.fspath(place) else ""


def _absolute_all(manifest: str | Path | Mapping[str, str | Path]) -> str | dict[str, str]:
    if isinstance(manifest, Mapping):
        return {space: _absolute(place) for space, place in manifest.items()}
    return _absolute(manifest)


def _of_space(
    server: str | ImageClient | Mapping[str, str | ImageClient], space: str, spaces: Collection[str]
) -> str | ImageClient:
    """Where the vectors of a space of a model come from.

    Raises:
        BadInput: nobody says.
    """
    if isinstance(server, Mapping):
        if space in server:
            return server[space]
    elif len(spaces) == 1:
        return server
    such = ", ".join(f"{name!r}: ..." for name in spaces)
    raise BadInput(f"The model was trained with vectors of {', '.join(spaces)}. Say where each is: server={{{such}}}.")


def _names(
    manifest: str | Path | Mapping[str, str | Path], keys: Mapping[str, str]
) -> tuple[ImageNames | None, dict[str, ImageNames]]:
    """Names of images, and those of items by space, of manifests.

    Args:
        manifest: that of images, or of each space.
        keys: what each space is keyed by.

    Raises:
        BadInput: a manifest is of no space, or cannot be read.
    """
    if not isinstance(manifest, Mapping):
        return (ImageNames.read(manifest) if manifest else None), {}
    if unknown := [name for name in manifest if name not in keys]:
        raise BadInput(f"A manifest of the space {unknown[0]!r} is given; the model's are: {', '.join(keys)}.")
    found = {name: ImageNames.read(file) for name, file in manifest.items()}
    of_images = next((names for name, names in found.items() if keys[name] == BY_IMAGE), None)
    return of_images, {name: names for name, names in found.items() if keys[name] != BY_IMAGE}
