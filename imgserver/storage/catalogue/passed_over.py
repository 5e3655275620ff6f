"""What the listing of a catalogue passes over: counted and named, so that no photo is missed in silence."""

from __future__ import annotations

import os
from collections import Counter

PICTURES = (
    *(".heic", ".heif", ".hif", ".jxl", ".jp2", ".j2k", ".jpf", ".svg", ".svgz", ".ico", ".icns", ".psd", ".pdf"),
    *(".eps", ".ai", ".tga", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2"),
)
ARCHIVES = (".zip", ".gz", ".tgz", ".bz2", ".tbz2", ".xz", ".txz", ".zst", ".7z", ".rar")

PICTURE = "pictures of formats that are not read: convert them to JPEG, PNG, WebP or AVIF"
ARCHIVE = "archives: unpack them, or pack their photos as plain .tar without compression"
TABLE = "Parquet files without photos"
NO_TEXT = "photos whose names are no UTF-8: rename them, such as by 'convmv -f latin1 -t utf8'"
AGAIN = "links to folders that are listed already"
OUT = "links that lead out of the folder: bring what they lead to, or name its folder with --photo-root"
NOWHERE = "links that lead to no file"
SPARSE = "photos that a tar stores with holes: pack it without --sparse"
OTHER = "other files"
HIDDEN_FOLDERS = ("_temporary", "__MACOSX")  # of a job that writes here, and what macOS packs beside files
SHOWN = 4  # suffixes


def is_hidden(path: str) -> bool:
    """Whether a file is no data, by its own name or that of a folder between the catalogue and it."""
    return any((part[:1] == "." and part not in (".", "..")) or part in HIDDEN_FOLDERS for part in path.split("/"))


def is_text(path: str) -> bool:
    """Whether a file's name is UTF-8; only then it can be a key, or stand in a manifest."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def shown(path: str) -> str:
    """A path for people, with bytes that are no UTF-8 as ``ls -b`` writes them."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


class PassedOver:
    """Files that were passed over, by what they are."""

    def __init__(self) -> None:
        self._suffixes: dict[str, Counter[str]] = {}
        self._first: dict[str, str] = {}

    def add(self, kind: str, path: str) -> None:
        """Count one; ``kind`` is one of the sentences above."""
        suffix = os.path.splitext(path)[1].lower() or "without suffix"
        self._suffixes.setdefault(kind, Counter())[shown(suffix)] += 1
        self._first[kind] = min(self._first.get(kind, path), path)

    def add_file(self, path: str) -> None:
        """Count a file whose name is none of a photo."""
        lower = path.lower()
        self.add(PICTURE if lower.endswith(PICTURES) else ARCHIVE if lower.endswith(ARCHIVES) else OTHER, path)

    def said(self) -> tuple[str, ...]:
        """A sentence a kind: how many, of which suffixes, the first by name, and what to do."""
        kinds = (PICTURE, ARCHIVE, TABLE, NO_TEXT, AGAIN, OUT, NOWHERE, SPARSE, OTHER)
        return tuple(self._sentence(kind) for kind in kinds if kind in self._suffixes)

    def _sentence(self, kind: str) -> str:
        counts = self._suffixes[kind]
        what, _, to_do = kind.partition(": ")
        some = ", ".join(f"{suffix} {count}" for suffix, count in sorted(counts.items(), key=_most_first)[:SHOWN])
        more = ", …" if len(counts) > SHOWN else ""
        first = shown(self._first[kind])
        advice = f"; {to_do}" if to_do else ""
        return f"passed over {what}: {counts.total()} ({some}{more}), the first is {first}{advice}"


def _most_first(item: tuple[str, int]) -> tuple[int, str]:
    return -item[1], item[0]
