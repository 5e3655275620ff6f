"""Where the vectors of each space are, and which space's head learns, as settings say."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from crossmedia.errors import BadInput, ServerUnavailable, did_you_mean
from crossmedia.imgserver import open_local
from crossmedia.imgserver.client import Transport
from crossmedia.trainer.settings import FitConfig
from crossmedia.version import place_and_version

FROZEN, LEARN = "frozen", "learn"
Given = Transport | Mapping[str, Transport] | None  # in place of connections, for the one space or for each


@dataclass(frozen=True)
class Place:
    """Where the vectors of a space are.

    Attributes:
        source: an address, or a transport.
        local: whether it is a store in this process.
        version: of the vectors; empty: the active one.
    """

    source: Transport | str
    local: bool = False
    version: str = ""

    def close(self) -> None:
        """Close a store that was opened for it; what is asked elsewhere is its client's to close."""
        if self.local and not isinstance(self.source, str):
            self.source.close()


@contextmanager
def closing_places(places: dict[str, Place]) -> Iterator[dict[str, Place]]:
    """Close the stores of some places in the end, whether or not a client took them into use."""
    try:
        yield places
    finally:
        for place in places.values():
            place.close()


@dataclass(frozen=True)
class Sources:
    """Where vectors are, as options say it.

    Attributes:
        server: address of the one space.
        store: folder of the one space, in this process: no server is asked; may be empty.
        vectors: address or folder of a store by space, where there are several, each perhaps with ``@VERSION`` behind.
        catalogue: with a store: where the photos are, for what it does not hold; may be empty.
        recorded: whether nobody has said it now, and it is what a run remembers.
    """

    server: str
    store: str = ""
    vectors: Mapping[str, str] = field(default_factory=dict)
    catalogue: str = ""
    recorded: bool = field(default=False, compare=False)

    @contextmanager
    def said(self) -> Iterator[None]:
        """Who meets an address that he has not given is told where it is from.

        Raises:
            ServerUnavailable: as it came, and that the run remembers the address.
        """
        try:
            yield
        except ServerUnavailable as error:
            if self.recorded:
                where = "The run remembers this address: --server, --store or --vectors say where its vectors are now."
                error.args = (f"{error} {where}", *error.args[1:])
            raise

    @classmethod
    def of_run(
        cls,
        fitted: Mapping[str, Any],
        server: str = "",
        store: str = "",
        vectors: Mapping[str, str] = MappingProxyType({}),
        catalogue: str = "",
    ) -> Sources:
        """Where a run took its vectors from, in place of which what is given now stands.

        Args:
            fitted: settings of the run, as its folder has them; empty for a model that has none.
            server: address of the one space now.
            store: folder of the one space now.
            vectors: address or folder of some spaces now; the others are where they were.
            catalogue: where the photos are.
        """
        recorded = {name: fitted.get(name) or getattr(FitConfig(), name) for name in ("server", "store", "vectors")}
        if server or store:
            return cls(server, store, vectors, catalogue)
        if vectors:
            return cls(recorded["server"], "", {**recorded["vectors"], **vectors}, catalogue)
        return cls(**recorded, catalogue=catalogue, recorded=True)

    def of(self, spaces: Sequence[str], given: Given = None) -> dict[str, Place]:
        """Where the vectors of some spaces are; of those that ``vectors`` names, where it names any.

        Args:
            spaces: their names.
            given: transports instead.

        Raises:
            BadInput: a name is no space, several spaces are to be had from one place, or a server and a store are
                named.
            NoStore: a folder holds no store.
        """
        named = given if isinstance(given, Mapping) else self.vectors
        if unknown := [name for name in named if name not in spaces]:
            raise BadInput(
                f"--vectors names the space {unknown[0]!r}; there are: {', '.join(spaces) or 'none'}."
                f"{did_you_mean(unknown[0], spaces)}"
            )
        if isinstance(given, Mapping):
            return {name: Place(given[name]) for name in spaces if name in given}
        if self.vectors:
            if self.store:
                raise BadInput("--store is given beside --vectors. Name the folder there: --vectors NAME=FOLDER.")
            wanted = {name: _where_and_version(self.vectors[name]) for name in spaces if name in self.vectors}
            opened = self._opened(where for where, _ in wanted.values())
            return {name: replace(opened[where], version=version) for name, (where, version) in wanted.items()}
        if len(spaces) > 1:
            every = " ".join(f"--vectors {name}=HOST:PORT" for name in spaces)
            raise BadInput(
                f"There are several spaces of vectors: {', '.join(spaces)}. Say where each is: {every}; 'trainer fit' "
                f"and 'trainer compare' leave out one that is not named."
            )
        if given is not None:
            return dict.fromkeys(spaces, Place(given))
        if self.store and self.server not in ("", FitConfig.server):
            raise BadInput(
                f"The server {self.server} and the store {self.store} are both given, and only one of them could be "
                f"asked. Leave one out."
            )
        return {name: self._store(self.store) if self.store else Place(self.server) for name in spaces}

    @property
    def versions(self) -> dict[str, str]:
        """The version that is named behind each of ``vectors``; empty: none is."""
        return {name: _where_and_version(text)[1] for name, text in self.vectors.items()}

    def _opened(self, named: Iterable[str]) -> dict[str, Place]:
        """What is named, each once, however many spaces are in it; all are closed where one cannot be had."""
        found: dict[str, Place] = {}
        with ExitStack() as opened:
            for where in dict.fromkeys(named):
                found[where] = self._place(where)
                opened.callback(found[where].close)
            opened.pop_all()
        return found

    def _place(self, text: str) -> Place:
        """Of what is named for a space: a folder is a store, and so is what cannot be an address."""
        return self._store(text) if Path(text).is_dir() or ":" not in text else Place(text)

    def _store(self, folder: str) -> Place:
        return Place(open_local(folder, self.catalogue or None), local=True)


def _where_and_version(text: str) -> tuple[str, str]:
    """An address or a folder, and the version that is named behind it; a folder may have an @ in its name.

    Raises:
        BadInput: there is an @, and no version behind it.
    """
    if Path(text).is_dir():
        return text, ""
    for at in (match.start() for match in re.finditer("@", text)):
        if Path(text[:at]).is_dir():
            return text[:at], text[at + 1 :]
    place, version = place_and_version(text)
    if place != text and not version:
        raise BadInput(f"--vectors {text!r} names no version behind the @. Name one, or leave out the @.")
    return place, version


def learning_space(config: FitConfig, spaces: Sequence[str]) -> str:
    """The space whose head learns; empty: all are frozen.

    Args:
        config: of a run.
        spaces: whose vectors it takes.

    Raises:
        BadInput: there is no such space, several could be meant, or images are off.
    """
    if config.head == FROZEN:
        return ""
    name = config.head.rpartition("=")[0]
    if not config.images:
        raise BadInput("A head cannot learn with images off. Leave out --no-images, or --head learn.")
    if not name and len(spaces) > 1:
        choices = " or ".join(f"--head {space}={LEARN}" for space in spaces)
        raise BadInput(f"There are several spaces, and one head can learn: say which, {choices}.")
    if name and name not in spaces:
        raise BadInput(f"head is {config.head!r}; the spaces are: {', '.join(spaces)}.{did_you_mean(name, spaces)}")
    return name or spaces[0]
