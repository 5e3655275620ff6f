"""Words as queries: which encoder reads them, so that their vectors can be compared with those that are served."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

from crossmedia.errors import StoreError, VersionMismatch
from crossmedia.imgserver.head import is_whole
from crossmedia.imgserver.serving.open_versions import OpenVersion, VectorMaker
from crossmedia.imgserver.vision.backbones import any_backbone, without_endings
from crossmedia.imgserver.vision.embedding import Embedder
from crossmedia.imgserver.vision.machine import Machine
from crossmedia.version import TEXT, Version


class Words:
    """Finds the encoder of words; that of the other tower is made when it is first asked for, and kept.

    Args:
        folder: of the store, or what stands for it.
        machine: what an encoder takes of this machine.
    """

    def __init__(self, folder: Path, machine: Machine):
        self._folder, self._machine = folder, machine
        self._towers: dict[str, Embedder] = {}
        self._lock = threading.Lock()

    def maker(self, serving: OpenVersion) -> VectorMaker:
        """What makes vectors of words that can be compared with those of a version.

        Raises:
            VersionMismatch: nothing does.
            StoreError: the model has changed since the store was filled.
            BadInput: its files are not there any more.
        """
        version, model = Version.parse(serving.version), serving.maker
        if model is None:
            raise VersionMismatch(f"The vectors of {version} were imported: there is no encoder to read words with.")
        if version.of_texts:
            return model
        if not version.of_tower:
            raise VersionMismatch(
                f"Words cannot be compared with vectors of {version}: its backbone knows no words. Photos are found by "
                f"words when they went through the image tower of CLIP or SigLIP: 'imgserver precompute --backbone "
                f"hf:FOLDER'."
            )
        if model.head is not None and not is_whole(model.head):
            raise VersionMismatch(
                f"Words cannot be compared with vectors of {version}: its head {version.head} changed what the image "
                f"tower made. Make whole ones: 'imgserver precompute --new-head --dim {model.features.dim}', then "
                f"'imgserver index'."
            )
        return replace(model, embedder=self._tower(model))

    def _tower(self, model: VectorMaker) -> Embedder:
        """The text tower of the model that photos went through."""
        recipe, photos = model.features.recipe, model.features.name
        with self._lock:
            if photos not in self._towers:
                if (here := any_backbone(recipe, self._folder).version) != photos:
                    raise StoreError(f"The model {recipe} is {here} here; the store holds features of {photos}.")
                texts = TEXT + without_endings(recipe)
                self._towers[photos] = Embedder(
                    texts, any_backbone(texts).version, self._folder / "engine", self._machine
                )
            return self._towers[photos]
