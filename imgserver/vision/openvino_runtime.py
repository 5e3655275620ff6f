"""OpenVINO, imported in one way."""

from __future__ import annotations

import sys
from typing import Any


def runtime() -> Any:
    """OpenVINO."""
    # Its converter reports usage to its makers unless this package is absent; we tell nobody anything.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino
