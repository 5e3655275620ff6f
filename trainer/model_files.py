"""A trained model, from a run folder or from what ``trainer export`` wrote: what it predicts, and what it needs."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from copy import copy
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from crossmedia.concepts import ConceptCard
from crossmedia.errors import BadInput
from crossmedia.features.layout import ITEMS_FILE
from crossmedia.features.reading.known_items import read_items
from crossmedia.features.reading.request import RequestColumns
from crossmedia.features.spec import BY_IMAGE
from crossmedia.features.vocabulary import Vocabularies
from crossmedia.imgserver.client import ImageClient
from crossmedia.names import ImageNames
from crossmedia.trainer.evaluate import Predictor
from crossmedia.trainer.export.exported import Exported
from crossmedia.trainer.export.native import trusted_digests
from crossmedia.trainer.layers.inputs import InputSpec
from crossmedia.trainer.runs.checkpoint import Lineage, load_cards, load_model, run_digest, samples_folder


@dataclass(frozen=True)
class ModelFile:
    """A model with what belongs to it.

    Attributes:
        path: the run folder, or the exported file.
        predictor: gives probabilities.
        lineage: what it was trained with.
        vocabulary: raw values to places.
        samples: folder of samples of a run; the exported file itself.
        cards: what the numbers of vectors mean, by space; None: the file does not say.
        digest: sha256 of the exported file as it was read, or of a run's ``config.json``, which holds the digests of
            the others.
    """

    path: Path
    predictor: Predictor
    lineage: Lineage
    vocabulary: Vocabularies
    samples: str | Path
    cards: Mapping[str, ConceptCard] | None
    digest: str

    @classmethod
    def read(cls, path: str | Path, samples: str | Path = "", trust_native: Collection[str] = ()) -> ModelFile:
        """Read a run folder with its samples, or an exported file.

        Args:
            path: of it.
            samples: folder of samples of a run; empty: where they were.
            trust_native: digests of exported files that may hold native code.

        Raises:
            BadInput: there is no model, or the vocabulary is another; or it is native code, and its digest not named;
                or one that is named is no digest.
        """
        trusted = trusted_digests(trust_native)
        if os.path.isdir(path):  # a run folder; a name may be too long to be asked for
            model, lineage, config = load_model(path)
            samples = samples_folder(path, config["samples"], samples)
            cards = load_cards(path) or None  # a run of a former release kept none
            vocabulary, digest = Vocabularies.load(Path(samples)), run_digest(path)
            found = cls(Path(path), model.served(), lineage, vocabulary, samples, cards, digest)
        else:
            exported = Exported(path, trusted)
            vocabulary = Vocabularies.read(exported.vocabulary)
            found = cls(Path(path), exported, exported.lineage, vocabulary, path, None, exported.digest)
        if found.vocabulary.hash != found.lineage.vocabulary_hash:
            raise BadInput(f"The vocabulary in {samples} is another one than the model {path} was trained with.")
        return found

    def items(self) -> pa.Table | None:
        """The item table that belongs to it: of the samples of a run, or in the exported file; None: it has none.

        Raises:
            BadInput: it cannot be read.
        """
        if not isinstance(self.predictor, Exported):
            file = Path(self.samples) / ITEMS_FILE
            return read_items(file) if file.exists() else None
        if not self.predictor.items:
            return None
        try:
            return pq.read_table(pa.BufferReader(self.predictor.items), page_checksum_verification=True)
        except (OSError, pa.ArrowException) as error:
            raise BadInput(f"The items in {self.path} cannot be read: {error}. Export the model again.") from error


def request_columns(spec: InputSpec) -> RequestColumns:
    """What a request may say, of what a model was trained on."""
    return RequestColumns(
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


def absolute(place: str | Path) -> str:
    """The path of a place, wherever a process works; empty stays empty."""
    return os.path.abspath(place) if os.fspath(place) else ""


def absolute_all(manifest: str | Path | Mapping[str, str | Path]) -> str | dict[str, str]:
    """``absolute`` of one place, or of each."""
    if isinstance(manifest, Mapping):
        return {space: absolute(place) for space, place in manifest.items()}
    return absolute(manifest)


def clients_of(
    server: str | ImageClient | Mapping[str, str | ImageClient], versions: Mapping[str, str], cache_bytes: int
) -> dict[str, ImageClient]:
    """A client of each space, for vectors of the version that a model was trained with.

    Args:
        server: address or client, of the only space or of each.
        versions: by space.
        cache_bytes: of clients that are made here.

    Raises:
        BadInput: nobody says where the vectors of a space are.
    """
    found = {}
    for name, version in versions.items():
        given = _of_space(server, name, versions)
        # Who gave a client keeps its version.
        found[name] = ImageClient(given, cache_bytes=cache_bytes) if isinstance(given, str) else copy(given)
        found[name].version = version
    return found


def _of_space(
    server: str | ImageClient | Mapping[str, str | ImageClient], space: str, spaces: Collection[str]
) -> str | ImageClient:
    """Where the vectors of a space of a model come from."""
    if isinstance(server, Mapping):
        if space in server:
            return server[space]
    elif len(spaces) == 1:
        return server
    such = ", ".join(f"{name!r}: ..." for name in spaces)
    raise BadInput(f"The model was trained with vectors of {', '.join(spaces)}. Say where each is: server={{{such}}}.")


def names_of(
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
