"""What is damaged in a store is taken out of it, so that the commands that made it make it again.

Entries whose row or seal is wrong are removed in one transaction a space, while others may serve and write. An index
whose pages are damaged is written anew from those that are whole, which needs the store alone.
"""

from __future__ import annotations

import json
import shutil
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from crossmedia.errors import DamagedIndex, StoreError
from crossmedia.imgserver.head_files import load_head, other_head
from crossmedia.imgserver.operations.compact import ANEW, take_into_use
from crossmedia.imgserver.operations.verify import find_damage
from crossmedia.imgserver.similarity.index import FOLDER as SIMILARITY
from crossmedia.imgserver.similarity.index import SimilarityFiles
from crossmedia.imgserver.storage.checksums import open_fact
from crossmedia.imgserver.storage.exclusive import alone
from crossmedia.imgserver.storage.index import Index
from crossmedia.imgserver.storage.pages import readable
from crossmedia.imgserver.storage.records import KEY, RECORD, Ids, Space, whole_entries
from crossmedia.imgserver.storage.snapshots import remove_snapshots
from crossmedia.imgserver.storage.store import Store
from crossmedia.version import TEXT, name_of


@dataclass
class MendReport:
    """What was taken out, and what makes it again.

    Attributes:
        rebuilt: whether the index was written anew.
        rows: version or backbone -> ids of the images whose row was damaged.
        entries: version or backbone -> how many entries of the index were damaged or lost.
        removed: files that were damaged, and are made again by a command.
        advice: what to do next, in order; empty where nothing was wrong.
    """

    rebuilt: bool = False
    rows: dict[str, list[int]] = field(default_factory=dict)
    entries: dict[str, int] = field(default_factory=dict)
    removed: list[str] = field(default_factory=list)
    advice: list[str] = field(default_factory=list)


def mend(store: Path) -> MendReport:
    """Take everything that is damaged out of a store; what is whole stays, and is served meanwhile.

    Args:
        store: its folder.

    Raises:
        BadInput: the index has to be written anew, and another process has the store open.
        StoreError: there is no store, or nothing of its index can be read; or it cannot be written.
    """
    report = MendReport()
    try:
        opened = Store(store, create=False)
    except DamagedIndex:
        report.entries, report.rebuilt = _rebuilt(store), True
        opened = Store(store, create=False)
    with closing(opened):
        for name, counts in opened.index.drop_damaged().items():
            report.entries[name] = report.entries.get(name, 0) + sum(counts)
        for space in opened.index.spaces():
            found = find_damage(opened, space)
            if len(found.ids):
                opened.index.remove([(space.name, found.ids, found.entries)])
                report.rows[space.name] = found.ids.tolist()
        _mend_similarity(opened, report)
        _advise(opened, report)
    return report


def _rebuilt(store: Path) -> dict[str, int]:
    """Write the index anew from what can be read of it; return how many entries of each space that lost."""
    index = store / "index"
    with alone(store):
        databases = {name: dict(found) for name, found in readable(index / "data.mdb").items()}
        facts, told = _facts(databases.get(b"meta", {})), _facts(databases.get(b"spaces", {}))
        spaces = [Space(**json.loads(value)) for value in told.values()]
        if not spaces:
            raise StoreError(
                f"Of the index {index} nothing can be read. Restore a backup; or move the store away and run "
                f"'imgserver precompute' into a new one."
            )
        records = _records(databases.get(b"entries", {}))
        lost = {}
        shutil.rmtree(index / ANEW, ignore_errors=True)
        with closing(Index(index / ANEW)) as new:
            for space in sorted(spaces, key=lambda space: space.number):
                here = records[records["key"]["space"] == space.number]
                new.adopt(space, here["key"]["id"].astype(np.int64), np.ascontiguousarray(here["entry"]))
                expected = int(facts.get(f"entries:{space.number}".encode(), len(here)))
                lost[space.name] = max(0, expected - len(here))
            generation = int(facts.get(b"generation", 1 + sum(space.next_row for space in spaces)))
            new.adopt_facts(facts.get(b"active", b"").decode(), generation)
        remove_snapshots(index)
        take_into_use(store).close()
    return {name: count for name, count in lost.items() if count}


def _facts(found: dict[bytes, bytes]) -> dict[bytes, bytes]:
    opened = {key: open_fact(key, value) for key, value in found.items()}
    return {key: value for key, value in opened.items() if value is not None}


def _records(found: dict[bytes, bytes]) -> Any:
    """The whole ones among entries, ascending, shape (n,), ``RECORD``."""
    size = RECORD.itemsize - KEY.itemsize
    blocks = [key + value for key, value in found.items() if len(key) == KEY.itemsize and len(value) == size]
    records = np.frombuffer(b"".join(blocks), RECORD)
    ids: Ids = records["key"]["id"].astype(np.int64)
    return records[whole_entries(records["key"]["space"], ids, np.ascontiguousarray(records["entry"]))]


def _mend_similarity(store: Store, report: MendReport) -> None:
    folder = store.folder / SIMILARITY
    try:
        whole = SimilarityFiles(store.folder).open() is not None or not folder.exists()
    except StoreError:
        whole = False
    if not whole:  # or what says which build counts has gone
        shutil.rmtree(folder)
        report.removed.append(str(folder))


def _advise(store: Store, report: MendReport) -> None:
    """What makes again what was taken out: from photos, from features, from the file that was imported."""
    run, advice = f"imgserver {{}} --store {store.folder}", report.advice
    active = store.index.active
    damaged = [space for space in store.index.spaces() if space.name in report.rows or report.entries.get(space.name)]
    if not active and store.index.spaces("vector"):
        advice.append(f"Say which version is served: '{run.format('versions')} --activate VERSION'.")
    # Features first, for vectors are made of them; codes last, for they are made of either.
    for space in sorted(damaged, key=lambda space: (space.kind, bool(space.codebook))):
        advice.append(f"{space.name}: {_again(store, space, run)}")
    for space in store.index.spaces("vector"):
        try:
            if not space.version.imported:
                load_head(store, space.name)
        except StoreError as error:
            advice.append(str(error))
        try:
            store.codebook(space)
        except StoreError as error:
            advice.append(f"{error} Bring it back from a backup; or {without_codebook(store, space)}")
    if report.removed:
        advice.append(f"The similarity index: '{run.format('index')}'.")


def without_codebook(store: Store, space: Space) -> str:
    """How to come to a compressed version again when its codebook has gone."""
    run, plain = f"imgserver {{}} --store {store.folder}", str(space.version.plain)
    steps = [f"'{run.format('versions')} --delete {space.name}'"]
    steps.append(f"'{run.format('compress')} --bytes {space.row_bytes} --version {plain}'")
    if store.index.active == space.name:
        held = store.index.space(plain) is not None
        steps.insert(0, f"'{run.format('versions')} --activate {plain}'" if held else other_head(store, plain))
    return ", then ".join(steps) + "."


def _again(store: Store, space: Space, run: str) -> str:
    """The command that makes what is missing of a space."""
    if space.kind == "feature":
        what, of = "photos", f"--catalogue FOLDER --backbone {space.recipe}"
        if space.version.of_texts:
            what, of = "texts", "--texts TABLE --text COLUMN"
            if space.recipe != space.name:  # the one that was fitted is the store's own
                of += f" --encoder {space.recipe.removeprefix(TEXT)}"
        again = f"{run.format('precompute')} {of}"
        return f"'{again}' embeds the {what} again; vectors of {what} that have gone stay as they are."
    if space.codebook:
        return f"'{run.format('compress')} --bytes {space.row_bytes} --version {space.version.plain}'."
    if space.version.imported:
        name = name_of(space.version.backbone)
        again = f"'{run.format('import')} --name {name} FILE', of the file that they came from"
        back = f"{run.format('versions')} --activate {store.index.active}"  # what is imported is activated
        return f"{again}." if store.index.active == space.name else f"{again}; then '{back}'."
    return (
        f"'{run.format('precompute')} --head {store.head_path(space.version.head)}', of the features that are stored."
    )
