"""Heads in stores, and the cards of those of concepts: kept beside the vectors that they made, and read back."""

from __future__ import annotations

from pathlib import Path

from crossmedia.concepts import CARD_FILE, CONCEPTS, ConceptCard, has_concepts
from crossmedia.disk import replacing
from crossmedia.errors import BadInput, StoreError, VersionMismatch
from crossmedia.imgserver.head import Head
from crossmedia.imgserver.storage.store import ENCODERS, HEADS, Store
from crossmedia.imgserver.storage.stores import ServedStore
from crossmedia.version import Version


def save_head(store: Store, head: Head) -> None:
    """Keep ``head`` beside its vectors."""
    with replacing(store.head_path(head.name)) as part:
        part.write_bytes(head.to_bytes())


def save_card(store: Store, card: ConceptCard) -> None:
    """Keep the card of a head of concepts beside it."""
    with replacing(store.card_path(card.head)) as part:
        part.write_bytes(card.to_bytes())


def read_head_file(file: Path) -> tuple[Head, ConceptCard | None]:
    """A head out of any store, and its card, which lies beside it, if its numbers are concepts.

    Raises:
        BadInput: it is no head, or one of concepts without its card.
    """
    head = Head.from_bytes(file.read_bytes())
    if head.spec.name != CONCEPTS:
        return head, None
    path = file.with_name(CARD_FILE)
    try:
        return head, _card_of(head.name, path.read_bytes(), head.spec.dim)
    except (OSError, BadInput) as error:
        raise BadInput(
            f"The head {file} is one of concepts, and its card, which says what its numbers mean, is not in {path}: "
            f"{error}. Bring both files that 'imgserver concepts build' wrote."
        ) from error


def copy_heads(source: Path, target: Path) -> None:
    """Bring all heads below one folder, a store's or that of moved shards, to another, and the encoders of its texts.

    Raises:
        StoreError: one of them is damaged.
    """
    for file in (source / HEADS).glob("*.json"):
        with replacing(target / HEADS / file.name) as part:
            part.write_bytes(_read_card(file.stem, file.read_bytes(), file).to_bytes())
    for file in (source / HEADS).glob("*.safetensors"):
        data = file.read_bytes()
        read_head(file.stem, data, file)
        with replacing(target / HEADS / file.name) as part:
            part.write_bytes(data)
    for file in (source / ENCODERS).glob("*.safetensors"):  # whoever reads one checks it against its name
        with replacing(target / ENCODERS / file.name) as part:
            part.write_bytes(file.read_bytes())


def read_head(name: str, data: bytes, where: object) -> Head:
    """The head of that name, ``<name>@<hash>``, from its bytes.

    Raises:
        StoreError: it is another one, or none.
    """
    try:
        head = Head.from_bytes(data)
    except BadInput as error:
        raise StoreError(f"The head {name} in {where} is damaged and cannot be read.") from error
    if head.name != name:
        raise StoreError(f"The head {name} in {where} is damaged: its weights are those of {head.name}.")
    return head


def load_head(store: ServedStore, version: str) -> Head:
    """The head of a version in this store.

    Raises:
        StoreError: it is not there, or damaged.
    """
    name = Version.parse(version).head
    data = store.read_head(name)
    try:
        if data is None:
            raise StoreError(f"The head of {version} is missing in {store}.")
        return read_head(name, data, store)
    except StoreError as error:
        raise StoreError(f"{error} Bring it back from a backup; or {other_head(store, version)}.") from error


def load_card(store: ServedStore, version: str) -> ConceptCard:
    """What the numbers of a version mean.

    Raises:
        VersionMismatch: they are no concepts.
        StoreError: the card is not there, or damaged.
    """
    if not has_concepts(version):
        raise VersionMismatch(
            f"The numbers of {version} are no concepts and have no names. 'imgserver concepts build' makes a head "
            f"whose numbers have, and 'imgserver precompute --head' a version of it."
        )
    named = Version.parse(version)
    data = store.read_card(named.head)
    remedy = "Bring it back from a backup, or run 'imgserver precompute --head' with the files of the build again."
    if data is None:
        raise StoreError(f"The card of {version}, which says what its numbers mean, is missing in {store}. {remedy}")
    try:
        return _read_card(named.head, data, store, named.dim)
    except StoreError as error:
        raise StoreError(f"{error} {remedy}") from error


def _read_card(name: str, data: bytes, where: object, dim: int = 0) -> ConceptCard:
    try:
        return _card_of(name, data, dim)
    except BadInput as error:
        raise StoreError(f"The card of {name} in {where} is damaged: {error}") from error


def _card_of(name: str, data: bytes, dim: int) -> ConceptCard:
    """The card of a head of that name, of ``dim`` numbers where that is known; BadInput where it is that of another."""
    card = ConceptCard.from_bytes(data)
    if card.head != name or (dim and len(card) != dim):
        raise BadInput(f"it describes {len(card)} numbers of {card.head}, and not {dim or 'those'} of {name}")
    return card


def other_head(store: object, version: str) -> str:
    """What makes another version in the place of one whose head, or whose codebook, has gone."""
    command = f"imgserver precompute --store {store} --catalogue FOLDER --new-head --dim {Version.parse(version).dim}"
    return f"make another version of the features that are stored: '{command}'"
