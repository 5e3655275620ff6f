"""Digests in the trainer's own files, so that a damaged one is refused and never used."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from crossmedia.disk import open_regular, replacing

DIGEST, SIZE = "sha256", 32


def text_of(path: Path) -> str:
    """The text of a file that may be of a stranger.

    Raises:
        OSError: it cannot be read, or is a pipe or a device.
        UnicodeDecodeError: it is no UTF-8.
    """
    with open_regular(path) as file:
        return file.read().decode()


def file_digest(path: Path) -> str:
    """sha256 of a file, in hex."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, DIGEST).hexdigest()


def sealed_json(document: dict[str, Any]) -> str:
    """The document as JSON, with the digest of what it says; how it is laid out does not matter."""
    return json.dumps({**document, DIGEST: _said(document)}, indent=1) + "\n"


def open_json(text: str) -> dict[str, Any]:
    """What ``sealed_json`` was given.

    Raises:
        ValueError: it says something else, or has no digest.
    """
    document = json.loads(text)
    if not isinstance(document, dict) or document.pop(DIGEST, "") != _said(document):
        raise ValueError("its digest is that of another content: it is damaged, or was changed by hand")
    return document


def _said(document: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def seal(path: Path) -> None:
    """Put the digest of a file behind it."""
    digest = file_digest(path)
    with open(path, "ab") as file:
        file.write(bytes.fromhex(digest))


def opened(data: bytes) -> bytes:
    """What was in a file before ``seal``.

    Raises:
        ValueError: it is something else now.
    """
    block, digest = data[:-SIZE], data[-SIZE:]
    if hashlib.sha256(block).digest() != digest:
        raise ValueError("its digest is that of another content")
    return block


@contextmanager
def replacing_whole(path: Path) -> Iterator[Path]:
    """``replacing``, for PyTorch and safetensors, which have errors of their own for a disk that is full.

    Raises:
        StoreError: the file cannot be written; what was there before stands.
    """
    with replacing(path) as part:
        try:
            yield part
        except (RuntimeError, SafetensorError) as error:
            raise OSError(str(error)) from error
