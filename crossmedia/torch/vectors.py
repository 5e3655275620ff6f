"""The batches of a loader, each with the vectors of its images.

Legend: B rows, L images of a row, D numbers in a vector.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from crossmedia.arguments import check_whole, must
from crossmedia.errors import BadInput, CrossMediaError
from crossmedia.features.spec import IMAGE_SPACE
from crossmedia.imgserver.client import ImageClient
from crossmedia.keys import NULL_IMAGE
from crossmedia.torch.columns import OK, VECTORS, Ids, columns_of, find
from crossmedia.trainer.images.ahead import Ready, Wanted, vectors_ahead
from crossmedia.trainer.images.image_head import ImageHead
from crossmedia.trainer.images.spaces import Missing, Spaces
from crossmedia.trainer.one_copy import Array
from crossmedia.trainer.processes import own_device
from crossmedia.trainer.tensors import ImageVectors

Source = ImageClient | ImageHead


def with_vectors(
    loader: Iterable[Any],
    images: Source | Mapping[str, Source],
    columns: str | Sequence[str] | Mapping[str, str | Ids],
    depth: int = 2,
    device: torch.device | str | None = None,
    max_missing: float = 0.05,
) -> VectorLoader:
    """The batches of a loader, each with the vectors of its images, fetched in a thread for the batches to come.

    A batch is a dict; what comes out is a new one with all that it had and, for each column ``NAME`` of ids,

    - ``batch["NAME.vectors"]``: fp32, of the shape of the ids and one more dimension, (B, D) or (B, L, D); zeros where
      there is no image.
    - ``batch["NAME.ok"]``: bool, of the shape of the ids: which have a vector.

    Ids may be a tensor, an array or a list of any shape, padded by -1 (or by ``Ids(null=...)``); values whose offsets
    are in another column (``Ids(offsets=...)``); or a jagged tensor of TorchRec or PyTorch, whose vectors are those of
    its values. Each id is asked for once a batch, over all columns. To a GPU a batch goes in one copy, from pinned
    memory, on a stream of its own, and rows are gathered there.

    Args:
        loader: any iterable of dicts: a ``DataLoader``, a data set of Hugging Face or webdataset, a generator.
        images: where vectors come from: a client; an ``ImageHead``, whose head then gets its gradient; or a dict of
            them, by the names of spaces.
        columns: the columns of ids, by name; or a dict, what a column is called -> the name of its space, or ``Ids``.
        depth: batches that are fetched ahead.
        device: where vectors go, and the tensors of the batch with them; None: where the ``ImageHead`` is, and of a
            client the CPU.
        max_missing: share of the images asked for that may be missing; with more the loop stops, as ``fit`` does.

    Raises:
        BadInput: an argument is of another type, or names a space that there is not.

    While the batches are taken:

    Raises:
        InvalidRequest: a batch is no dict, lacks a column, or holds what is no id.
        TooManyMissingImages: more than ``max_missing`` of the images are missing, or, however few they are, all.
        CrossMediaError: as ``ImageClient.get``; the message begins with the number of the batch.

    Example:
        >>> import torch
        >>> from crossmedia import ImageClient
        >>> from crossmedia.torch import with_vectors
        >>> batches = [{"image_id": torch.tensor([1, 2]), "hist_image_id": torch.tensor([[3, 1], [5, -1]])}]
        >>> with ImageClient("localhost:7070") as client:
        ...     for batch in with_vectors(batches, client, ["image_id", "hist_image_id"]):
        ...         print(batch["image_id.vectors"].shape, batch["hist_image_id.vectors"].shape)
        ...         print(batch["hist_image_id.ok"].tolist())
        torch.Size([2, 16]) torch.Size([2, 2, 16])
        [[True, True], [True, False]]
    """
    must(isinstance(loader, Iterable), "loader", loader, "an iterable of dicts")
    check_whole("depth", depth)
    share = isinstance(max_missing, int | float) and 0 <= max_missing <= 1
    must(share, "max_missing", max_missing, "a share from 0 to 1")
    sources = _by_space(images)
    named = columns_of(columns, list(sources))
    used = {name: one for name, one in sources.items() if name in {how.space for how in named.values()}}
    spaces = Spaces({name: ImageHead(one) if isinstance(one, ImageClient) else one for name, one in used.items()})
    return VectorLoader(loader, spaces, named, depth, _where(used, device), max_missing)


def _by_space(images: Source | Mapping[str, Source]) -> dict[str, Source]:
    """Where the vectors of each space come from, by its name."""
    sources = dict(images) if isinstance(images, Mapping) else {IMAGE_SPACE: images}
    what = "an ImageClient, an ImageHead, or a dict of them by the names of spaces"
    must(bool(sources) and all(isinstance(one, Source) for one in sources.values()), "images", images, what)
    return sources


def _where(sources: Mapping[str, Source], given: torch.device | str | None) -> torch.device | ImageHead:
    if given is None:
        return next((one for one in sources.values() if isinstance(one, ImageHead)), torch.device("cpu"))
    must(isinstance(given, str | torch.device), "device", given, "a device of PyTorch, such as 'cuda'")
    device = own_device(str(given))
    _check_holds_numbers(device)
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device


def _check_holds_numbers(device: torch.device) -> None:
    """Refuse the device of shapes alone.

    Raises:
        BadInput: it is that.
    """
    if device.type == "meta":
        raise BadInput(
            "On the device 'meta' tensors have a shape and no numbers, so there is no place for vectors. Give cpu or "
            "cuda, and move a head that is on it: head.to_empty(device='cpu')."
        )


@dataclass(frozen=True, eq=False)
class VectorLoader:
    """What ``with_vectors`` makes: iterable again and again, as long as the loader is.

    A loop that is left early ends the thread. Where the loader's own state is saved, remember that it is ``depth``
    batches ahead.

    Attributes:
        loader: whose batches they are.
        spaces: where vectors come from.
        columns: of ids, by what they are called.
        depth: batches that are fetched ahead.
        where: vectors go: a device; or an ``ImageHead``, wherever it is when an epoch begins.
        max_missing: share of the images asked for that may be missing.

    Example:
        >>> import torch
        >>> from crossmedia import ImageClient
        >>> from crossmedia.torch import VectorLoader, with_vectors
        >>> loader = torch.utils.data.DataLoader([{"image_id": image_id} for image_id in range(8)], batch_size=4)
        >>> with ImageClient("localhost:7070") as client:
        ...     batches = with_vectors(loader, client, "image_id")
        ...     [len(batch["image_id.ok"]) for epoch in range(2) for batch in batches]
        [4, 4, 4, 4]
        >>> isinstance(batches, VectorLoader), len(batches)
        (True, 2)
    """

    loader: Iterable[Any]
    spaces: Spaces
    columns: Mapping[str, Ids]
    depth: int
    where: torch.device | ImageHead
    max_missing: float

    @property
    def device(self) -> torch.device:
        """Where vectors go now."""
        return self.where if isinstance(self.where, torch.device) else self.where.device

    def __len__(self) -> int:
        """Batches of the loader; a ``TypeError`` where it has no length."""
        return len(self.loader)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        if name in ("batch_sampler", "batch_size", "dataset", "sampler"):  # what frameworks look for
            return getattr(self.loader, name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __iter__(self) -> Iterator[dict[str, Any]]:
        device = self.device
        _check_holds_numbers(device)
        self._check_sources(device)
        missing, number = Missing(self.spaces.stats), 0
        try:
            for ready in vectors_ahead(self.loader, partial(self._wanted, device), self.spaces, device, self.depth):
                missing.check(self.max_missing)
                batch = self._given(ready, device)
                number += 1
                yield batch
        except CrossMediaError as error:
            error.args = (f"In batch {number} (the first is 0): {error}", *error.args[1:])
            raise
        if self.max_missing < 1:
            missing.check_found()

    def _wanted(self, device: torch.device, batch: Any) -> Wanted[_Arrays]:
        found = find(batch, self.columns, "the batch")
        tensors = {} if device.type == "cpu" else {name: one.numpy() for name, one in batch.items() if _packs(one)}
        return Wanted(found.keys, _Arrays(found.places, tensors))

    def _given(self, ready: Ready[Any, _Arrays], device: torch.device) -> dict[str, Any]:
        batch = dict(ready.of)
        if device.type != "cpu":
            packed: dict[str, Any] = ready.made.tensors
            batch = {name: packed[name] if name in packed else _there(one, device) for name, one in batch.items()}
        vectors = self.spaces(ready.keys, ready.fetched)
        for name, how in self.columns.items():
            found: ImageVectors = vectors[how.space].placed(cast(Tensor, ready.made.places[name]))  # sent by now
            batch[name + VECTORS], batch[name + OK] = found.values, found.ok
        return batch

    def _check_sources(self, device: torch.device) -> None:
        """Refuse a head that is elsewhere, and a null that is an image, whose vector would never be seen.

        Raises:
            BadInput: one is.
        """
        for space, images in self.spaces.items():
            assert isinstance(images, ImageHead)
            if images.head is None:
                images.to(device)  # nothing but the mark of where it is
            elif images.device != device:
                raise BadInput(
                    f"The head is on {images.device}, and vectors go to {device}: move it there, head.to('{device}')."
                )
            for name, how in self.columns.items():
                if how.space == space and how.null > NULL_IMAGE and images.holds(how.null):
                    raise BadInput(
                        f"{how.null} stands for no image in the column {name!r}, and is the id of an image that has a "
                        f"vector. Let another number stand for none, such as -1, or begin to count images with 1."
                    )


@dataclass(frozen=True)
class _Arrays:
    """What goes to the device beside the vectors: tensors there, in the places of arrays.

    Attributes:
        places: as of ``Found``.
        tensors: of the batch.
    """

    places: dict[str, Array]
    tensors: dict[str, Array]


def _packs(value: Any) -> bool:
    """Whether a value of a batch is a tensor that can be copied as bytes of an array."""
    plain = type(value) is Tensor and value.device.type == "cpu" and value.layout == torch.strided
    return plain and not value.requires_grad and value.dtype != torch.bfloat16 and not value.is_quantized


def _there(value: Any, device: torch.device) -> Any:
    """A value of a batch on a device, where it is one that can be moved: a tensor, a jagged tensor, a dict of them."""
    if isinstance(value, Mapping):
        return {name: _there(one, device) for name, one in value.items()}
    return value.to(device) if callable(getattr(value, "to", None)) else value
