"""Where the vectors of each space are, and which space's head learns, as settings say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from crossmedia.errors import BadInput, did_you_mean
from crossmedia.imgserver import open_local
from crossmedia.imgserver.client import Transport
from crossmedia.trainer.settings import FitConfig

FROZEN, LEARN = "frozen", "learn"
Given = Transport | Mapping[str, Transport] | None  # in place of connections, for the one space or for each


@dataclass(frozen=True)
class Place:
    """Where the vectors of a space are.

    Attributes:
        source: an address, or a transport.
        local: whether it is a store in this process.
    """

    source: Transport | str
    local: bool = False


def vectors_from(server: str, store: str, catalogue: str = "") -> Transport | str:
    """Where vectors come from: a store in this process, if one is named, else the server at an address.

    Args:
        server: its address.
        store: folder; may be empty.
        catalogue: with a store: where the photos are, for what it does not hold; may be empty.

    Raises:
        NoStore: there is none of that name.
    """
    return open_local(store, catalogue or None) if store else server


def places(
    spaces: Sequence[str], server: str, store: str, vectors: Mapping[str, str], given: Given = None
) -> dict[str, Place]:
    """Where the vectors of some spaces are.

    Args:
        spaces: their names.
        server: address of the one space.
        store: folder of the one space; may be empty.
        vectors: address or folder by space; those that are not named are left out.
        given: transports instead.

    Raises:
        BadInput: a name is no space, or several spaces are to be had from one place.
        NoStore: a folder holds no store.
    """
    named = given if isinstance(given, Mapping) else vectors
    if unknown := [name for name in named if name not in spaces]:
        raise BadInput(
            f"--vectors names the space {unknown[0]!r}; there are: {', '.join(spaces)}."
            f"{did_you_mean(unknown[0], spaces)}"
        )
    if isinstance(given, Mapping):
        return {name: Place(given[name]) for name in spaces if name in given}
    if vectors:
        if store:
            raise BadInput("--store is given beside --vectors. Name the folder there: --vectors NAME=FOLDER.")
        return {name: _place(vectors[name]) for name in spaces if name in vectors}
    if len(spaces) > 1:
        all_of_them = " ".join(f"--vectors {name}=HOST:PORT" for name in spaces)
        raise BadInput(
            f"There are several spaces of vectors: {', '.join(spaces)}. Say where each is: {all_of_them}; 'trainer fit' "
            f"leaves out one that is not named."
        )
    place = Place(given) if given is not None else Place(vectors_from(server, store), local=bool(store))
    return dict.fromkeys(spaces, place)


def _place(text: str) -> Place:
    """Of what is named for a space: a folder is a store, and so is what cannot be an address."""
    local = Path(text).is_dir() or ":" not in text
    return Place(vectors_from("", text), local=True) if local else Place(text)


def learning_space(config: FitConfig, spaces: Sequence[str]) -> str:
    """The space whose head learns; empty: all are frozen.

    Args:
        config: of a run.
        spaces: whose vectors it takes.

    Raises:
        BadInput: the setting names none, or does not say which.
    """
    name, equals, how = config.head.rpartition("=")
    if how not in (FROZEN, LEARN) or (equals and not name):
        raise BadInput(f"head is {config.head!r}; it must be {FROZEN}, {LEARN} or SPACE={LEARN}.")
    if how == FROZEN:
        return ""
    if not config.images:
        raise BadInput("A head cannot learn with images off. Leave out --no-images, or --head learn.")
    if not name and len(spaces) > 1:
        choices = " or ".join(f"--head {space}={LEARN}" for space in spaces)
        raise BadInput(f"There are several spaces, and one head can learn: say which, {choices}.")
    if name and name not in spaces:
        raise BadInput(f"head is {config.head!r}; the spaces are: {', '.join(spaces)}.{did_you_mean(name, spaces)}")
    return name or spaces[0]
