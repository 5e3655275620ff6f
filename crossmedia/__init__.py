"""Train click-through-rate models on pictures that stay on an image server.

What a notebook needs, by one import; each name is loaded when it is first used::

    import crossmedia

    crossmedia.precompute(store="store", catalogue="photos")
    crossmedia.build_samples("samples.toml", out="samples")
    result = crossmedia.fit(crossmedia.FitConfig.suited_to("samples", out="runs/din", store="store"))
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crossmedia.errors import CrossMediaError
    from crossmedia.features.reading.samples import Samples
    from crossmedia.features.writing.build import build_samples
    from crossmedia.imgserver import open_store
    from crossmedia.imgserver.client import HeadServers, ImageClient
    from crossmedia.imgserver.head import Head
    from crossmedia.imgserver.offline.precompute import precompute
    from crossmedia.imgserver.offline.precompute_texts import precompute_texts
    from crossmedia.imgserver.similarity.building import build_index
    from crossmedia.imgserver.similarity.duplicates import find_duplicates
    from crossmedia.imgserver.storage.catalogue.manifest import write_manifest
    from crossmedia.imgserver.vision.machine import Machine
    from crossmedia.trainer.align.settings import AlignConfig
    from crossmedia.trainer.align.train import align
    from crossmedia.trainer.compare import compare
    from crossmedia.trainer.evaluate import evaluate, score
    from crossmedia.trainer.export.exported import export_model
    from crossmedia.trainer.fit import fit
    from crossmedia.trainer.images.image_head import ImageHead
    from crossmedia.trainer.report.page import write_report
    from crossmedia.trainer.scorer import Scorer
    from crossmedia.trainer.settings import CompareConfig, FitConfig, ReportConfig

__all__ = [
    "AlignConfig",
    "CompareConfig",
    "CrossMediaError",
    "FitConfig",
    "Head",
    "HeadServers",
    "ImageClient",
    "ImageHead",
    "Machine",
    "ReportConfig",
    "Samples",
    "Scorer",
    "align",
    "build_index",
    "build_samples",
    "compare",
    "evaluate",
    "export_model",
    "find_duplicates",
    "fit",
    "open_store",
    "precompute",
    "precompute_texts",
    "score",
    "write_manifest",
    "write_report",
]

_MODULES = {
    "AlignConfig": "trainer.align.settings",
    "CompareConfig": "trainer.settings",
    "CrossMediaError": "errors",
    "FitConfig": "trainer.settings",
    "Head": "imgserver.head",
    "HeadServers": "imgserver.client",
    "ImageClient": "imgserver.client",
    "ImageHead": "trainer.images.image_head",
    "Machine": "imgserver.vision.machine",
    "ReportConfig": "trainer.settings",
    "Samples": "features.reading.samples",
    "Scorer": "trainer.scorer",
    "align": "trainer.align.train",
    "build_index": "imgserver.similarity.building",
    "build_samples": "features.writing.build",
    "compare": "trainer.compare",
    "evaluate": "trainer.evaluate",
    "export_model": "trainer.export.exported",
    "find_duplicates": "imgserver.similarity.duplicates",
    "fit": "trainer.fit",
    "open_store": "imgserver",
    "precompute": "imgserver.offline.precompute",
    "precompute_texts": "imgserver.offline.precompute_texts",
    "score": "trainer.evaluate",
    "write_manifest": "imgserver.storage.catalogue.manifest",
    "write_report": "trainer.report.page",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'crossmedia' has no attribute {name!r}")
    try:
        value = getattr(importlib.import_module(f"crossmedia.{_MODULES[name]}"), name)
    except ModuleNotFoundError as error:
        extra = "server" if _MODULES[name].startswith("imgserver") else "trainer"
        raise ImportError(
            f"crossmedia.{name} needs packages that are not installed ({error.name} is missing). "
            f'Install them with: pip install "crossmedia[{extra}]"'
        ) from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
