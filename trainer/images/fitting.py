"""Whether vectors are those that samples ask for: names of the same manifest, and other ones in each space."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from crossmedia.errors import BadInput
from crossmedia.features.reading.samples import Samples
from crossmedia.features.spec import BY_IMAGE
from crossmedia.imgserver.client import ServerInfo
from crossmedia.names import same_names
from crossmedia.trainer import processes
from crossmedia.version import Version

log = logging.getLogger(__name__)


def check_different(samples: Samples, versions: Mapping[str, str]) -> None:
    """No two spaces have the same vectors: those of one version by one kind of key are.

    Raises:
        BadInput: two have.
    """
    first: dict[tuple[str, str], str] = {}
    for name, version in versions.items():
        if (other := first.setdefault((samples.spaces[name].key, version), name)) != name:
            raise BadInput(
                f"The spaces {other!r} and {name!r} would have the same vectors: those of {version}, both by "
                f"{samples.spaces[name].key}. Leave one out; or name another version that its server holds: --vectors "
                f"{name}=HOST:PORT@VERSION ('imgserver info' lists them)."
            )


def check_names(samples: Samples, space: str, info: ServerInfo) -> None:
    """The keys of a space are called in samples as on its server, as far as both tell.

    A line in the log says so where a space of images gets vectors of texts: these are by item, and the same number may
    be an image of something else.

    Raises:
        BadInput: their ids come from another manifest, so that the same id is something else.
    """
    # A server that owns a part has names of its part.
    if not info.ownership.servers and not same_names(samples.spaces[space].names, info.contents.image_names):
        of = "images" if samples.spaces[space].key == BY_IMAGE else "items"
        raise BadInput(
            f"The ids of {of} in {samples.folder} come from "
            f"another manifest than those of the server, so that one id is two things. Build the samples with the "
            f"manifest that was given to 'imgserver precompute' (photos: --catalogue, texts: --manifest), or embed by "
            f"that of the samples."
        )
    of_texts = bool(info.version) and Version.parse(info.version).of_texts
    if samples.spaces[space].key == BY_IMAGE and of_texts and processes.rank() == 0:
        log.warning(
            "The space %r asks by ids of images, and what is served there, %s, was made of texts, which are by item. "
            "Where an image's id is not its item's, these are vectors of something else: are addresses swapped "
            "(--vectors)?",
            space,
            info.version,
        )
