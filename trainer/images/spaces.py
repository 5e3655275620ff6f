"""The vectors of a run, by space: fetched ahead together, each with a version, misses and a generation of its own.

A space is vectors of one version under one kind of key: photos by image id, titles by item id.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from crossmedia.concepts import ConceptCard
from crossmedia.errors import CrossMediaError
from crossmedia.features.batch import Int64Array
from crossmedia.features.spec import IMAGE_SPACE
from crossmedia.imgserver.client import FetchStats, Vectors
from crossmedia.imgserver.client.servers import at_once
from crossmedia.imgserver.head import Head
from crossmedia.trainer.images.images import Images
from crossmedia.trainer.layers.inputs import named_modules
from crossmedia.trainer.tensors import ImageVectors

Keys = Mapping[str, Int64Array]
Fetched = dict[str, Vectors | None]


def named_versions(versions: Mapping[str, str]) -> str:
    """Versions by space as one text: that of samples that name no space stands alone; empty: images are off."""
    return ", ".join(version if space == IMAGE_SPACE else f"{space}={version}" for space, version in versions.items())


@contextmanager
def of_space(space: str) -> Iterator[None]:
    """Errors say which space they are of, unless there is one without a name."""
    try:
        yield
    except CrossMediaError as error:
        if space != IMAGE_SPACE:
            error.args = (f"In the space {space!r}: {error}", *error.args[1:])
        raise


class Spaces(nn.Module):
    """What training and prediction ask of the vectors of all spaces; empty: images are off.

    Args:
        of: the ``Images`` of each space, by its name.

    Raises:
        BadInput: a name is one that PyTorch has another use for, such as ``items``.
    """

    def __init__(self, of: Mapping[str, Images]):
        super().__init__()
        self.of = named_modules(of, "space")

    def items(self) -> Iterator[tuple[str, Images]]:
        """Each space: its name, and where its vectors come from."""
        for name, images in self.of.items():
            assert isinstance(images, Images)
            yield name, images

    @property
    def dims(self) -> dict[str, int]:
        """D of each space."""
        return {name: images.dim for name, images in self.items()}

    @property
    def versions(self) -> dict[str, str]:
        """The version of the vectors that each space gives now."""
        return {name: images.version for name, images in self.items()}

    @property
    def bases(self) -> dict[str, str]:
        """Of each space, the version of what comes from outside of a run: see ``Images.base``."""
        return {name: images.base for name, images in self.items()}

    @property
    def generations(self) -> dict[str, int]:
        """The generation of each space's store, as it was told last."""
        return {name: images.generation for name, images in self.items()}

    def cards(self) -> dict[str, ConceptCard]:
        """What the numbers of vectors mean, of each space whose numbers are concepts.

        Raises:
            CrossMediaError: what a server or the way to it raised.
        """
        found = {}
        for name, images in self.items():
            with of_space(name):
                if (card := images.card) is not None:
                    found[name] = card
        return found

    @property
    def learning(self) -> str:
        """The space whose head learns; empty: all are frozen."""
        return next((name for name, images in self.items() if images.head is not None), "")

    @property
    def head(self) -> Head | None:
        """The head that learns; None: all are frozen."""
        return next((images.head for _, images in self.items() if images.head is not None), None)

    @property
    def staleness(self) -> list[int]:
        """Of each training batch, steps that the head that learns had gone on since its vectors were made."""
        return next((images.staleness for _, images in self.items() if images.head is not None), [])

    @property
    def depth(self) -> int:
        """Batches that it is worth to ``fetch`` ahead: no more than the head that learns can use."""
        return min((images.depth for _, images in self.items()), default=2)

    @property
    def stats(self) -> dict[str, FetchStats]:
        """Running totals of what was fetched by this process, by space."""
        return {name: images.stats for name, images in self.items()}

    def fetch(self, keys: Keys) -> Fetched:
        """What can be had of a batch before its turn, of all spaces at once; may be called in another thread.

        Args:
            keys: shape (K,), each once, by space; those of spaces that are off are left out.

        Raises:
            CrossMediaError: what a server or the way to it raised.
        """

        def fetch(name: str, images: Images) -> Vectors | None:
            with of_space(name):
                return images.fetch(keys[name])

        spaces = list(self.items())
        return dict(zip(self.of, at_once([partial(fetch, *space) for space in spaces]), strict=True))

    def forward(
        self, keys: Mapping[str, Int64Array | Tensor], fetched: Fetched | None = None
    ) -> dict[str, ImageVectors]:
        """Vectors of each space, with a gradient to the head that learns.

        Args:
            keys: shape (K,), int64, by space; those of other spaces are left out.
            fetched: what ``fetch`` gave for the same keys.

        Raises:
            CrossMediaError: what a server or the way to it raised.
        """
        found = {}
        for name, images in self.items():
            with of_space(name):
                found[name] = images(keys[name], (fetched or {}).get(name))
        return found


@dataclass(frozen=True)
class Missing:
    """What there were no vectors of, by space.

    Attributes:
        stats: running totals of each space.
    """

    stats: Mapping[str, FetchStats]

    def check(self, max_missing: float) -> None:
        """As ``FetchStats.check_missing``, of each space.

        Raises:
            TooManyMissingImages: a larger share is missing in one.
        """
        for name, stats in self.stats.items():
            with of_space(name):
                stats.check_missing(max_missing)

    def check_found(self) -> None:
        """As ``FetchStats.check_found``, of each space.

        Raises:
            TooManyMissingImages: all are missing in one.
        """
        for name, stats in self.stats.items():
            with of_space(name):
                stats.check_found()

    @property
    def said(self) -> str:
        """A sentence on each space where vectors are missing; empty: there is none."""
        of_each = {name: stats.missing_said for name, stats in self.stats.items()}
        return " ".join(
            said if name == IMAGE_SPACE else f"In the space {name!r} {said}" for name, said in of_each.items() if said
        )
