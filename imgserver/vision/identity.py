"""Versions: a vector is only good for one backbone, one preprocessing and one head.

backbone version  <backbone>@<12 hex of sha256(weights, preprocessing)>
vector version    <backbone version>+<head>@<12 hex of sha256(canonical head spec, weights)>/<dim>
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict

from imgserver.head import Head
from imgserver.vision.decode import Preprocessing


def backbone_version(name: str, weights_sha256: str, preprocessing: Preprocessing) -> str:
    """Version of a backbone: its weights and every step from bytes to pixels."""
    canonical = json.dumps(asdict(preprocessing), sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256((weights_sha256 + canonical).encode()).hexdigest()
    return f"{name}@{digest[:12]}"


def vector_version(backbone: str, head: Head) -> str:
    """Version of the vectors that ``head`` makes from the features of ``backbone``."""
    return f"{backbone}+{head.spec.name}@{head.digest()}/{head.spec.dim}"
