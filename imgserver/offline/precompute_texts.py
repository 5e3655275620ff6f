"""Embed a table of texts: ``imgserver precompute --texts`` as one call in Python."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from crossmedia.imgserver.offline.plan import PrecomputeConfig
from crossmedia.imgserver.offline.precompute import PrecomputeResult, StoreEmbedder
from crossmedia.imgserver.storage.catalogue.texts import TEXT_KEY
from crossmedia.imgserver.vision.machine import Machine
from crossmedia.imgserver.vision.text_source import TextSource
from crossmedia.version import TEXT


def precompute_texts(
    store: str | Path,
    texts: str | Path,
    text: str,
    key: str = TEXT_KEY,
    *,
    manifest: str | Path | None = None,
    encoder: str = "tfidf",
    dim: int | None = None,
    machine: Machine = Machine(),  # noqa: B008  frozen
    progress: Callable[[int], None] = lambda done: None,
) -> PrecomputeResult:
    """Embed a column of texts into a store, and activate the vectors.

    Call it again after a kill, or for new texts: what is there already is passed over.

    Args:
        store: folder of features and vectors; made if it is not there. It holds texts alone.
        texts: a Parquet or CSV file, or the URL of one.
        text: the column that is embedded.
        key: the column that names the items: ids, or keys of a manifest.
        manifest: whose keys name the items; None: the names that the store has from earlier runs, else ids.
        encoder: ``tfidf``, fitted on these texts and kept in the store; ``tfidf:FILE``, ``hf:FOLDER``, ``onnx:FOLDER``.
        dim: numbers in a vector; None keeps the head of the active version, and is 64 where there is none to keep, or
            all that there are for a text tower of CLIP or SigLIP.
        machine: what is taken of this machine: its cores or its first GPU, and how many texts go in at a time.
        progress: told how many texts were just dealt with.

    Returns:
        how many texts were found, embedded, skipped and rejected, and the version that is active now.

    Raises:
        BadInput: the table cannot be read, a column is missing, there is no such encoder, or the store holds photos.
        NothingEmbedded: not one text could be embedded, now or before.
        StoreError: the store cannot be written.

    Example:
        >>> import crossmedia
        >>> result = crossmedia.precompute_texts("titles", "photos.csv", text="fine")
        >>> result.found, result.rejected
        (243, 0)
    """
    source = TextSource.of(texts, text, key, manifest=Path(manifest) if manifest else None, store=Path(store))
    with StoreEmbedder(store, source, TEXT + encoder, machine) as embedder:
        return embedder.run(embedder.plan(PrecomputeConfig(dim)), progress)
