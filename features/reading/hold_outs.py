"""Several hold-outs of one log: samples that differ in nothing but which items are held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from crossmedia.errors import BadInput
from crossmedia.features.columns import label_columns
from crossmedia.features.meta import Meta
from crossmedia.features.reading.samples import Samples

OWN = ("hold_out_seed", "vocabulary_hash", "items_hash", "samples_hash")  # what may differ between hold-outs


def hold_outs(folders: Sequence[str | Path]) -> list[Samples]:
    """Open folders of samples that are hold-outs of one log; a single folder may be any samples.

    Their test rows are the same ones in the same order, so that row n of one is row n of all.

    Args:
        folders: that 'features build' made with one schema, each with another ``--hold-out-seed``.

    Raises:
        BadInput: a folder holds no samples, or they differ in something else, or in nothing.
    """
    if not folders:
        raise BadInput("No folder of samples is given.")
    found = [Samples(folder) for folder in folders]
    first = found[0]
    for number, other in enumerate(found[1:], 1):
        if differs := _difference(first, other):
            raise BadInput(
                f"{first.folder} and {other.folder} are no hold-outs of one log: {differs}. Build both from one "
                f"schema, as in 'features build SCHEMA --hold-out-seed {number}'."
            )
    seeds: dict[int, Samples] = {}
    for samples in found if len(found) > 1 else ():
        if (twin := seeds.setdefault(samples.hold_out_seed, samples)) is not samples:
            raise BadInput(
                f"{twin.folder} and {samples.folder} hold out the same items (hold_out_seed {samples.hold_out_seed}): "
                f"that is one hold-out. Build one of them again with another --hold-out-seed."
            )
    return found


def _difference(first: Samples, other: Samples) -> str:
    """In what two folders differ but for the items that are held out; empty: in nothing."""
    metas = [_comparable(samples) for samples in (first, other)]
    if names := [name for name in metas[0] if metas[0][name] != metas[1][name]]:
        return f"{names[0]} is {metas[0][names[0]]!r} and {metas[1][names[0]]!r}"
    if not first.has_held_out:
        return "nothing is held out"
    columns = ["timestamp", "raw_user_id", "raw_item_id", *label_columns(first.labels).values()]
    rows = [samples.frame("test", columns).combine_chunks() for samples in (first, other)]
    return "" if rows[0].equals(rows[1]) else "their test rows differ"


def _comparable(samples: Samples) -> dict[str, Any]:
    return {name: value for name, value in asdict(Meta.read(samples.folder)).items() if name not in OWN}
