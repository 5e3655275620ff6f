"""Start from yesterday's weights: all of them, or all but those of ids (Image Matters, arXiv 1711.06505, section 6)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from crossmedia.errors import BadInput, VersionMismatch
from crossmedia.features.reading.samples import Samples
from crossmedia.trainer.images.spaces import Spaces, named_versions
from crossmedia.trainer.models.base import Model
from crossmedia.trainer.runs.checkpoint import HEAD, is_head_alone, load_model
from crossmedia.trainer.settings import FitConfig
from crossmedia.version import Version


def starts_from_head_alone(run: str | Path, *, learns: bool) -> bool:
    """Whether a run to start from is a head that 'trainer align' made: then the model itself starts anew.

    Args:
        run: its folder.
        learns: whether a head of the new run learns, so that it can start from that one.

    Raises:
        BadInput: it is one, and no head learns; or the folder is no run.
    """
    if not is_head_alone(run):
        return False
    if not learns:
        raise BadInput(
            f"{run} holds a head alone, and no head learns here: give --head learn beside --warm-start; or train on "
            f"the vectors that 'imgserver precompute --head {Path(run) / HEAD}' makes, without --warm-start."
        )
    return True


def started_from(config: FitConfig, spaces: Spaces) -> str:
    """A sentence on what a run took of the run that it starts from."""
    run, head = config.warm_start, spaces.head
    if head is not None:
        layers = ",".join(map(str, head.spec.widths[1:]))
        of_head = f"the head of {spaces.learning!r}, whose layers behind the feature are {layers}"
        if is_head_alone(run):
            return f"Taken from {run}: {of_head}. The model starts anew."
    weights = "all weights" if config.warm_up == "full" else "all weights but those of ids"
    return f"Taken from {run}: {weights}{f', and {of_head}' if head is not None else ''}."


@torch.no_grad()
def warm_start(model: Model, run: str | Path, samples: Samples, versions: Mapping[str, str], *, partial: bool) -> None:
    """Copy the weights of a run into a new model.

    Args:
        model: gets the weights.
        run: folder of the run that they come from.
        samples: of the new run.
        versions: of the new run's vectors, or of the features that its head learns from, by space.
        partial: leave the weights of ids as they are: an id's weights over-fit, the others carry over.

    Raises:
        BadInput: the run is of another model, or its ids have other places.
        VersionMismatch: the run was trained on other vectors.
    """
    before, lineage, _ = load_model(run)
    then = {name: (version, Version.parse(version).backbone) for name, version in lineage.versions.items()}
    if then.keys() != versions.keys() or any(version not in then[name] for name, version in versions.items()):
        raise VersionMismatch(
            f"The run {run} was trained with vectors of {named_versions(lineage.versions) or 'no images'}, this one "
            f"with {named_versions(versions) or 'no images'}: its weights do not fit."
        )
    if type(before) is not type(model) or _shapes(before) != _shapes(model):
        raise BadInput(
            f"The run {run} is a {lineage.model} of another shape; warm-start takes the same model and options."
        )
    if not partial and lineage.vocabulary_hash not in (samples.vocabulary_hash, samples.extends):
        raise BadInput(
            f"The ids of {run} have other places than those of {samples.folder}. Build the samples with "
            f"'features build --extend', or take all but the ids with --warm-up partial."
        )
    ids, old_ids = model.id_rows(), before.id_rows()
    values = _tensors(before)
    for name, tensor in _tensors(model).items():
        if name not in ids:
            tensor.copy_(values[name])
        elif not partial:
            for column, (start, size) in ids[name].items():
                if column not in old_ids[name]:
                    raise BadInput(
                        f"The run {run} has no weights of {column!r}, a column of {samples.folder}. Start anew, or "
                        f"take all but the ids with --warm-up partial."
                    )
                first, count = old_ids[name][column]
                count = min(count, size)
                tensor[start : start + count] = values[name][first : first + count]


def _tensors(model: Model) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _shapes(model: Model) -> dict[str, torch.Size]:
    ids = model.id_rows()
    return {name: tensor.shape[1:] if name in ids else tensor.shape for name, tensor in _tensors(model).items()}
