"""What settings were in releases that did not name them, where that is not what they are by default now.

Settings of ``averaging``, which came with these defaults, are of this release; those without it are of a former one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SUMS = ("din", "dicm", "simtier")  # whose attention was a sum where nobody asked for a softmax


def as_then(model: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a run, with what an older release did not name as it was then.

    Args:
        model: name of the run's.
        settings: by the names of ``FitConfig``.

    Example:
        >>> from crossmedia.trainer.former import as_then
        >>> as_then("din", {"epochs": 5})
        {'epochs': 5, 'averaging': False, 'options': {'softmax': False}}
        >>> as_then("din", {"epochs": 5, "averaging": True})
        {'epochs': 5, 'averaging': True}
    """
    if "averaging" in settings:
        return dict(settings)
    return {**settings, "averaging": False, "options": _options(model, settings.get("options", {}))}


def _options(model: str, options: Mapping[str, Any]) -> dict[str, Any]:
    if model in SUMS:
        return {"softmax": False, **options}
    found = dict(options)
    if model == "rocket":
        for net, default in (("light", "embedding_mlp"), ("booster", "din")):
            if of_net := _options(options.get(net, default), options.get(f"{net}_options") or {}):
                found[f"{net}_options"] = of_net
    return found
