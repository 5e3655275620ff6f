"""A head over stored features: vectors of a version without a CNN."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from crossmedia.concepts import ConceptCard
from crossmedia.errors import BadInput, NothingEmbedded
from crossmedia.imgserver.head import Head, fit_pca, whole_head
from crossmedia.imgserver.head_files import load_head, save_card, save_head
from crossmedia.imgserver.storage.records import Ids, Rows, Space, places_in, same_photo
from crossmedia.imgserver.storage.rejects import REJECTS_FILE
from crossmedia.imgserver.storage.store import Store
from crossmedia.imgserver.storage.table import leave_snapshot
from crossmedia.imgserver.storage.versions import (
    VECTOR_DTYPE,
    vector_space,
)
from crossmedia.status import is_ok
from crossmedia.version import Version
from crossmedia.words import counted

Values = npt.NDArray[Any]
VECTOR_BLOCK = 16_384
PCA_SAMPLE = 20_000
DEFAULT_DIM = 64


def apply_head(store: Store, head: Head, card: ConceptCard | None = None) -> tuple[str, int]:
    """Vectors of ``head`` for every stored feature, without a CNN; return their version, not activated, and how many.

    Run it again after a kill, or when features were added: what is there is not made again.

    Args:
        store: holds the features.
        head: such as ``trainer fit --head learn`` saved; one that does not say which features it was trained on is
            taken to be for those of the active version.
        card: what its numbers mean, where they are concepts; one that is there already stays, for names may be edited.

    Raises:
        BadInput: the store does not hold the head's features, or float16 cannot hold a number of a vector.
        StoreError: the store cannot be written.
    """
    active = store.index.active
    backbone = head.backbone or Version.parse(active).backbone
    features = store.index.space(backbone) if backbone else None
    if features is None:
        held = ", ".join(space.name for space in store.index.spaces("feature")) or "none"
        raise BadInput(
            f"The head takes features of {backbone or 'a backbone'}, which the store {store.folder} does not hold; it "
            f"holds: {held}. Run 'imgserver precompute --catalogue FOLDER' with that backbone first."
        )
    if features.dim != head.spec.widths[0]:
        raise BadInput(
            f"The head takes {head.spec.widths[0]} numbers; features of {features.name} have {features.dim}."
        )
    if card is not None and store.read_card(card.head) is None:
        save_card(store, card)
    vectors = _of_head(store, features, head, head.version(features.name))
    return vectors.name, int(is_ok(store.index.load(vectors.name)[1]["status"]).sum())


def make_vectors(store: Store, features: Space, dim: int | None, *, new_head: bool = False) -> str:
    """Vectors of every stored feature by the head of the active version, or by a new PCA; then activate them.

    Args:
        store: holds the features.
        features: of one backbone.
        dim: numbers in a vector; None keeps the head of the active version, and where there is none to keep is 64, or
            what a PCA of fewer photos has; features of a tower stay whole, for only so photos are found by words.
        new_head: fit one even if the active version has a head that fits.

    Raises:
        NothingEmbedded: there is not one feature.
        BadInput: too few photos for a PCA of this dim.
    """
    head, active = _head(store, features, dim, new_head=new_head), store.index.active
    version = head.version(features.name)
    # A compressed version goes on as it is: with its codebook, and without the version that it was made of.
    vectors = _of_head(store, features, head, active if str(Version.parse(active).plain) == version else version)
    store.index.activate(vectors.name)
    return vectors.name


def _of_head(store: Store, features: Space, head: Head, version: str) -> Space:
    """A version that a head makes of these features, with all its vectors."""
    save_head(store, head)
    vectors = vector_space(store, Version.parse(version))
    fill(store, features, vectors, head.apply_numpy)
    return vectors


def kept_head(store: Store, features: Space, dim: int | None, *, new_head: bool) -> Head | None:
    """The head of the active version, if vectors are to be made by it; None where a PCA is fitted."""
    active = store.index.active
    version = Version.parse(active)
    if active and not new_head and version.backbone == features.name and not version.imported:
        head = load_head(store, active)
        if dim in (None, head.spec.dim):
            return head
    return None


def check_photos(store: Store, features: Space, dim: int | None, coming: int, *, new_head: bool) -> None:
    """Check, before photos are embedded, that there will be enough of them for a PCA to so many numbers.

    Args:
        store: holds the features so far.
        features: of one backbone.
        dim: as of ``make_vectors``.
        coming: photos that are yet to be embedded.
        new_head: as of ``make_vectors``.

    Raises:
        BadInput: there will be too few.
    """
    if dim is not None and not _keeps_all(features, dim) and kept_head(store, features, dim, new_head=new_head) is None:
        status = store.index.load(features.name)[1]["status"]
        _check_dim(features, int(is_ok(status).sum()) + coming, dim)


def _keeps_all(features: Space, dim: int | None) -> bool:
    """Whether a new head leaves features as they are: those of one tower are to be compared with those of the other."""
    return features.version.of_tower and dim in (None, features.dim)


def _check_dim(features: Space, there: int, dim: int | None) -> None:
    what = f"{features.version.made_of}s"
    if there < 2:
        raise BadInput(f"A PCA takes two {what} at least; there is {there or 'none'}. Bring more {what}.")
    if dim is not None and dim >= there:
        raise BadInput(
            f"A PCA to {dim} numbers needs more than {dim} {what}; there are {there}. Bring more {what}, or leave out "
            f"--dim: vectors then have as many numbers as {there} {what} allow, {min(there - 1, DEFAULT_DIM)}."
        )


def few_numbers(store: Store, features: Space, version: str, dim: int | None) -> str:
    """A sentence for vectors that have fewer numbers than more photos would give them; else empty."""
    has, most = Version.parse(version).dim, min(DEFAULT_DIM, features.dim)
    if dim is not None or has >= most or load_head(store, version).spec.name != "pca":
        return ""
    there = int(is_ok(store.index.load(features.name)[1]["status"]).sum())
    of, could = counted(there, features.version.made_of), min(most, there - 1)
    if has == could:
        return f"vectors have {has} numbers and not {most}, for a PCA of {of} has no more"
    if has > could:  # the head is of photos that are here no more
        return ""
    return (
        f"vectors have {has} numbers, as the active version's head makes them; of the {of} that there are now "
        f"--new-head makes {could}"
    )


def _head(store: Store, features: Space, dim: int | None, *, new_head: bool) -> Head:
    """The head of the active version, if it fits; else a PCA of a sample of the stored features."""
    if (kept := kept_head(store, features, dim, new_head=new_head)) is not None:
        return kept
    _, entries, _ = store.index.load(features.name)
    entries = entries[is_ok(entries["status"])]
    if not len(entries):
        raise NothingEmbedded(
            f"Not one {features.version.made_of} could be embedded. The reasons are in {store.folder / REJECTS_FILE}."
        )
    if _keeps_all(features, dim):
        return whole_head(features.dim)
    _check_dim(features, len(entries), dim)
    if len(entries) > PCA_SAMPLE:
        chosen = np.random.default_rng(0).choice(len(entries), PCA_SAMPLE, replace=False)
        entries = entries[np.sort(chosen)]
    return fit_pca(store.read(features, entries), dim or min(DEFAULT_DIM, features.dim, len(entries) - 1))


def fill(store: Store, source: Space, target: Space, make: Callable[[Values], Values]) -> None:
    """Make the vectors of ``target`` that are not there, or older than their source; failures are carried over.

    Args:
        store: holds both.
        source: features, or vectors of another version.
        target: the version that is to be filled, block by block.
        make: rows of the source, shape (n, F), to those of the target, shape (n, dim).

    Raises:
        BadInput: float16 cannot hold a number of a vector.
        StoreError: a row of the source is damaged, or the store cannot be written.
    """
    ids, entries, _ = store.index.load(source.name)
    done_ids, done, _ = store.index.load(target.name)
    place, old = places_in(done_ids, ids)
    old[old] = same_photo(done[place[old]], entries[old])
    for start in range(0, len(ids), VECTOR_BLOCK):
        block = np.flatnonzero(~old[start : start + VECTOR_BLOCK]) + start
        if not len(block):
            continue
        part = entries[block]
        ok = is_ok(part["status"])
        values = make(store.read(source, part[ok])) if ok.any() else np.zeros((0, target.dim), np.float32)
        _check_range(target, ids[block][ok], values)
        store.put(Rows.of_entries(target, ids[block], part, values))
    leave_snapshot(store, target)


def _check_range(space: Space, ids: Ids, values: Values) -> None:
    with np.errstate(over="ignore"):
        bad = ~np.isfinite(values.astype(VECTOR_DTYPE)).all(axis=1)
    if bad.any():
        raise BadInput(
            f"float16 cannot hold {int(bad.sum())} of the vectors of {space.name}, such as that of id "
            f"{ids[bad][0]}: numbers reach {np.abs(values[bad][0]).max():.3g}. The head is not fit for these features; "
            f"delete the version, and take another head."
        )
