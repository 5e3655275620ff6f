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
    from crossmedia.trainer.compare import compare
    from crossmedia.trainer.evaluate import evaluate
    from crossmedia.trainer.fit import fit
    from crossmedia.trainer.images.image_head import ImageHead
    from crossmedia.trainer.scorer import Scorer
    from crossmedia.trainer.settings import CompareConfig, FitConfig

__all__ = [
    "CompareConfig",
    "CrossMediaError",
    "FitConfig",
    "Head",
    "HeadServers",
    "ImageClient",
    "ImageHead",
    "Samples",
    "Scorer",
    "build_samples",
    "compare",
    "evaluate",
    "fit",
    "open_store",
    "precompute",
    "precompute_texts",
]

_MODULES = {
    "CompareConfig": "trainer.settings",
    "CrossMediaError": "errors",
    "FitConfig": "trainer.settings",
    "Head": "imgserver.head",
    "HeadServers": "imgserver.client",
    "ImageClient": "imgserver.client",
    "ImageHead": "trainer.images.image_head",
    "Samples": "features.reading.samples",
    "Scorer": "trainer.scorer",
    "build_samples": "features.writing.build",
    "compare": "trainer.compare",
    "evaluate": "trainer.evaluate",
    "fit": "trainer.fit",
    "open_store": "imgserver",
    "precompute": "imgserver.offline.precompute",
    "precompute_texts": "imgserver.offline.precompute_texts",
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
