"""What the version of a backbone is made of: its weights and every step from bytes to pixels."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from crossmedia.imgserver.vision.decode import Preprocessing
from crossmedia.version import hashed


def backbone_version(name: str, files: Sequence[Path], preprocessing: Preprocessing, rest: str = "") -> str:
    """Version of a backbone in fp32: weights, every step from bytes to pixels, and what else changes its features."""
    sha = hashlib.sha256()
    for path in files:
        with open(path, "rb") as file:
            sha.update(hashlib.file_digest(file, "sha256").digest())
    sha.update(json.dumps(asdict(preprocessing), sort_keys=True, separators=(",", ":")).encode() + rest.encode())
    return hashed(name, sha.hexdigest())
