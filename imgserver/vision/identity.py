"""Versions: a vector is only good for one backbone, one preprocessing and one head.

backbone version  <backbone>@<12 hex of sha256(weights, preprocessing)>[#bf16]
vector version    <backbone version>+<head>@<12 hex of sha256(canonical head spec, weights)>[#<codebook>]/<dim>, see
                  ``Head.version`` and ``storage.versions``
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from crossmedia.imgserver.vision.decode import Preprocessing


def backbone_version(name: str, files: Sequence[Path], preprocessing: Preprocessing, rest: str = "") -> str:
    """Version of a backbone in fp32: weights, every step from bytes to pixels, and what else changes its features."""
    sha = hashlib.sha256()
    for path in files:
        with open(path, "rb") as file:
            sha.update(hashlib.file_digest(file, "sha256").digest())
    sha.update(json.dumps(asdict(preprocessing), sort_keys=True, separators=(",", ":")).encode() + rest.encode())
    return f"{name}@{sha.hexdigest()[:12]}"
