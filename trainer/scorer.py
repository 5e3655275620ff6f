"""Scores of one user's candidates, online: raw values in, probabilities out, vectors by image id.

scorer = Scorer.load("runs/din", server="localhost:7070")
scorer.score({"user_id": "u1", "hist_item_id": ["i7", "i3"], …}, {"item_id": ["i1", "i2"], "image_id": [1, None]})
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from copy import copy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from crossmedia.arguments import check_places, must
from crossmedia.errors import BadInput
from crossmedia.features.columns import ACTION
from crossmedia.features.reading.request import RequestColumns, RequestReader
from crossmedia.features.vocabulary import Vocabularies
from crossmedia.imgserver.client import ImageClient
from crossmedia.names import ImageNames
from crossmedia.trainer.evaluate import Predictor
from crossmedia.trainer.export.exported import Exported
from crossmedia.trainer.feed import Fed
from crossmedia.trainer.images.image_head import StoredVectors
from crossmedia.trainer.images.images import Images, NoImages
from crossmedia.trainer.runs.checkpoint import Lineage, load_model, samples_folder

CPU = torch.device("cpu")


class Scorer:
    """A model with its vocabulary, ready for requests.

    Args:
        predictor: gives probabilities.
        lineage: what it was trained with.
        vocabulary: raw values to places; kept as dictionaries, some 100 bytes a value.
        client: where vectors come from; None for a model without images.
        names: of images, for requests that give them; None: requests give ids.

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
        client: ImageClient | None,
        names: ImageNames | None = None,
    ):
        self._predictor, spec = predictor, lineage.inputs
        needed = [*spec.vocabularies, *([ACTION] if spec.actions else [])]
        if absent := [name for name in needed if name not in vocabulary.values]:
            raise BadInput(f"The model has a column {absent[0]!r} that its vocabulary lacks: its file is damaged.")
        self._vectors: Images = StoredVectors(client) if client is not None else NoImages()
        columns = RequestColumns(
            tuple(spec.user_columns),
            tuple(spec.item_columns),
            tuple(spec.text_columns),
            images=spec.image_vocabulary_size > 0,
            max_history=spec.max_history if spec.actions else 0,
        )
        self._requests = RequestReader(columns, vocabulary, names)
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
        server: str | ImageClient = "localhost:7070",
        manifest: str | Path = "",
    ) -> Scorer:
        """Load a run folder, or what ``trainer export`` wrote.

        Args:
            path: the run folder, or the exported file; still there where the scorer is sent to another process.
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
        check_places(path=path, samples=samples, manifest=manifest)
        must(
            isinstance(server, str | ImageClient), "server", server, "an address such as 'localhost:7070', or a client"
        )
        if Path(path).is_dir():  # a run folder
            model, lineage, config = load_model(path)
            samples = samples_folder(path, config["samples"], samples)
            predictor, vocabulary = model.served(), Vocabularies.load(Path(samples))
        else:
            predictor, samples = Exported(path), path
            lineage, vocabulary = predictor.lineage, Vocabularies.read(predictor.vocabulary)
        if vocabulary.hash != lineage.vocabulary_hash:
            raise BadInput(f"The vocabulary in {samples} is another one than the model {path} was trained with.")
        client = None
        if lineage.vector_version:
            client = ImageClient(server) if isinstance(server, str) else copy(server)  # who gave it keeps its version
            client.version = lineage.vector_version
        scorer = cls(predictor, lineage, vocabulary, client, ImageNames.read(manifest) if manifest else None)
        where = [os.path.abspath(place) if os.fspath(place) else "" for place in (path, samples, manifest)]
        scorer._load_again = partial(cls.load, where[0], where[1], server, where[2])
        return scorer

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
        batch = self._requests.batch(user, candidates, time.time() if now_s is None else now_s)
        with torch.inference_mode():
            fed = Fed.of(batch, CPU)
            scores = self._predictor.probabilities(fed.tensors, fed.vectors(self._vectors)).numpy()
        return scores[:, 0] if scores.shape[1] == 1 else scores

    def unmatched(self) -> dict[str, int]:
        """What requests gave so far and nothing matched: kind -> how many values.

        Counted are names of images that the manifest lacks, actions that are in no training row, and ids that are
        unknown as they are written and known in another Unicode form, letter case, or without blanks. Each kind is
        logged, with examples, at the first and whenever there are ten times as many. Other ids that training did not
        know are not counted: new users and items are to be expected.
        """
        return self._requests.unmatched.counts()
