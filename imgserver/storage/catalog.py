"""The catalogue: which image ids there are, and where their bytes come from."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from imgserver.errors import BadInput

PHOTO_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})
MAX_IMAGE_ID = 2**63 - 1


@dataclass(frozen=True)
class Fingerprint:
    """What tells cheaply that a photo may have been replaced.

    Attributes:
        size: bytes of the file.
        mtime_ns: time of its last change, in nanoseconds.
    """

    size: int
    mtime_ns: int


class FolderCatalog:
    """Photos in a folder and its sub-folders, named ``<image id>.<jpg, png, …>``: ``007.jpg`` is image 7.

    A file that came after the catalogue was listed is found too, if it lies at the top of the folder.

    Args:
        folder: where the photos are.

    Raises:
        BadInput: no such folder, a photo whose name is no number, or two photos of one id.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise BadInput(f"The catalogue folder {self.folder} does not exist, or is no folder.")
        self._paths: dict[int, str] = {}
        for root, _, names in os.walk(self.folder):
            for name in names:
                stem, suffix = os.path.splitext(name)
                if suffix.lower() in PHOTO_SUFFIXES and not name.startswith("."):
                    self._add(stem, os.path.join(root, name))

    def _add(self, stem: str, path: str) -> None:
        if not (stem.isascii() and stem.isdigit() and int(stem) <= MAX_IMAGE_ID):
            raise BadInput(
                f"The photo {path} is not named after an image id. Name each file <image id>.jpg (or .png, …), "
                f"a whole number from 0 on."
            )
        other = self._paths.setdefault(int(stem), path)
        if other != path:
            raise BadInput(f"Image id {int(stem)} has two photos, {other} and {path}. Remove or rename one of them.")

    def __len__(self) -> int:
        return len(self._paths)

    def ids(self) -> npt.NDArray[np.int64]:
        """All image ids, ascending, shape (n,)."""
        return np.sort(np.fromiter(self._paths, dtype=np.int64, count=len(self._paths)))

    def fingerprint(self, image_id: int) -> Fingerprint | None:
        """Size and time of the photo, or None when there is no such photo."""
        path = self._path(image_id)
        try:
            stat = os.stat(path) if path else None
        except FileNotFoundError:
            return None
        return Fingerprint(stat.st_size, stat.st_mtime_ns) if stat else None

    def read(self, image_id: int, max_bytes: int) -> bytes | None:
        """The photo's bytes, at most ``max_bytes + 1`` of them; None when there is no such photo.

        Raises:
            OSError: the photo is there and cannot be read.
        """
        path = self._path(image_id)
        if path is None:
            return None
        try:
            with open(path, "rb") as file:
                return file.read(max_bytes + 1)
        except FileNotFoundError:
            return None

    def _path(self, image_id: int) -> str | None:
        if path := self._paths.get(image_id):
            return path
        for suffix in (".jpg", ".jpeg", ".png"):
            path = str(self.folder / f"{image_id}{suffix}")
            if os.path.isfile(path):
                self._paths[image_id] = path
                return path
        return None
