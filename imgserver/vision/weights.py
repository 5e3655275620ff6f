"""Weights from a file into a net of ours: of a net with another last layer, with none, or inside of something larger.

Names in a file often have more in front than those of the net (``module.``, ``model.backbone.``, ``state_dict`` of a
checkpoint). What stands in front is found, not listed: it is that behind which the whole net is.
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from crossmedia.errors import BadInput

log = logging.getLogger(__name__)

SHOWN = 4  # names in a sentence
COUNTERS = "num_batches_tracked"  # of batch normalisation: nothing that computes features reads them
State = OrderedDict[str, Tensor]


def read_weights(path: Path) -> State:
    """All tensors of a file by their names; those of dicts in dicts by the names of both, with a dot between.

    Raises:
        BadInput: the file cannot be read, holds more than tensors, or holds none. No code in it is run.
    """
    try:
        read: Any = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except (OSError, SafetensorError, RuntimeError, ValueError, EOFError, ImportError, AttributeError) as error:
        raise BadInput(f"The weights {path} cannot be read: {str(error)[:300]}") from error
    except Exception as error:  # pickle.UnpicklingError: an object that torch does not load for safety
        raise BadInput(
            f"The weights {path} are no plain state dict. Save that of the net alone: "
            f"torch.save(net.state_dict(), path). {str(error)[:300]}"
        ) from error
    found: State = OrderedDict(_tensors(read, ""))
    if not found:
        raise BadInput(f"The weights {path} are no plain state dict: there is no tensor in it.")
    _with_metadata(found, dict(_metadata(read, "")))
    return found


def fitted(
    state: State, net: nn.Module, name: str, path: Path, unused: tuple[str, ...] = (), own: bool = True
) -> State:
    """What of a file belongs to a net, by the net's own names.

    Args:
        state: of ``read_weights``.
        net: without its last layer; tensors without memory will do.
        name: of the net, for messages.
        path: of the file, for messages.
        unused: beginnings of names in the net that no feature depends on; they may be missing.
        own: the file is the user's own, so what is taken and left out is logged.

    Raises:
        BadInput: weights of the net are missing or not finite, or the file has more than one such net.
    """
    names = net.state_dict().keys()
    needed = {key for key in names if not key.startswith(unused) and not key.endswith(COUNTERS)}
    front = _front(state, needed, name, path)
    if missing := sorted(key for key in needed if front + key not in state):
        raise BadInput(
            f"The weights {path} do not fit {name}: of the {len(needed)} that it needs beside its last layer "
            f"{len(missing)} are missing: {_some(missing)}. There are: {_some(state)}."
        )
    taken: State = OrderedDict((key, state[front + key]) for key in names if front + key in state)
    if bad := [key for key in sorted(needed) if taken[key].is_floating_point() and not taken[key].isfinite().all()]:
        raise BadInput(f"The weights {path} hold numbers that are not finite (nan, inf): {_some(bad)}.")
    if own:
        left = [key for key in state if key.removeprefix(front) not in taken and not key.endswith(COUNTERS)]
        behind = f" behind {front!r}" if front else ""
        out = f"{len(left)} left out, for which it has no place: {_some(left)}" if left else "none left out"
        log.warning("%s takes %d weights of %s%s; %s.", name, len(needed), path, behind, out)
    given = getattr(state, "_metadata", {})
    inner = {key[len(front) :]: value for key, value in given.items() if f"{key}.".startswith(front)}
    _with_metadata(taken, inner or getattr(net.state_dict(), "_metadata", {}))
    return taken


def load(net: nn.Module, state: State, name: str) -> None:
    """Put what ``fitted`` took into a net.

    Raises:
        BadInput: a weight has another shape.
    """
    try:
        net.load_state_dict(state, strict=False)  # what is needed is there
    except RuntimeError as error:
        said = " ".join(str(error).split())
        raise BadInput(f"The weights do not fit {name}: {said[:300]}") from error


def _tensors(read: Any, front: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(read, Mapping):
        for key, value in read.items():
            if isinstance(value, Tensor):
                yield f"{front}{key}", value
            else:
                yield from _tensors(value, f"{front}{key}.")


def _metadata(read: Any, front: str) -> Iterator[tuple[str, Any]]:
    """Versions of layers, which some nets of torchvision read."""
    if isinstance(read, Mapping):
        for key, value in getattr(read, "_metadata", {}).items():
            yield (front + key).removesuffix("."), value
        for key, value in read.items():
            yield from _metadata(value, f"{front}{key}.")


def _with_metadata(state: State, metadata: Mapping[str, Any]) -> None:
    state._metadata = OrderedDict(metadata)  # type: ignore[attr-defined]


def _front(state: State, needed: Collection[str], name: str, path: Path) -> str:
    """What stands in front of the net's own names: that behind which most of them are."""
    found: Counter[str] = Counter()
    for key in state:
        parts = key.split(".")
        for place in range(len(parts)):
            if ".".join(parts[place:]) in needed:
                found["".join(f"{part}." for part in parts[:place])] += 1
    whole = [front for front, count in found.items() if count == len(needed)]
    if len(whole) > 1 and "" not in whole:
        raise BadInput(
            f"The weights {path} hold {name} more than once, behind {_some(whole)}. Save the one that is meant alone."
        )
    if "" in whole:
        return ""
    return max(found, key=lambda front: found[front]) if found else ""


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
    return ", ".join(listed[:SHOWN]) + more
