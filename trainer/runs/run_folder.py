"""Whose a run folder is: held by one process at a time, and another run in it is refused, not written over."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import torch

from crossmedia.disk import held
from crossmedia.errors import BadInput, DeadlineExceeded, Overloaded, ServerFault, ServerUnavailable, StoreError
from crossmedia.features.layout import META_FILE
from crossmedia.features.spec import IMAGE_SPACE
from crossmedia.trainer import processes
from crossmedia.trainer.images.spaces import named_versions
from crossmedia.trainer.runs.checkpoint import ALIGNED, CONFIG, FILES, METRICS, STATE, document_of, needed
from crossmedia.trainer.runs.sealed import text_of
from crossmedia.trainer.runs.state import Epochs, is_interrupted
from crossmedia.trainer.settings import identity
from crossmedia.version import Version

LOCK, BOARD = ".lock", "tensorboard"
OF_COMPARISONS = SETTINGS, COMPARISON = "settings.json", "compare.json"  # never in the folder of a run
RUNS = Path("runs")
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # of a disk where nobody can hold a file
MAY_END = (ServerUnavailable, DeadlineExceeded, Overloaded, ServerFault, StoreError)  # a later try may not meet it


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run.

    Attributes:
        path: of the folder.
        identity: of the run.
        ended: what a run of this identity found that ended there before; None: there is none.
    """

    path: Path
    identity: dict[str, Any]
    ended: dict[str, Any] | None


@dataclass(frozen=True)
class Claim:
    """Which folder a run asks for.

    Attributes:
        out: of its settings; empty: a fresh one.
        name: that a fresh one begins with.
        overwrite: whether what is there of another run, or of this one, may be removed.
    """

    out: str
    name: str
    overwrite: bool


@contextmanager
def claimed(claim: Claim, own: dict[str, Any], device: torch.device) -> Iterator[RunFolder]:
    """The folder of a run, held until the run ends.

    It is made if it is not there. What may be in it: a run of the same identity, interrupted or finished. A finished
    one, or another run, is removed where ``claim.overwrite`` says so. Without a folder it is the first of
    ``runs/<name>``, ``runs/<name>-2``, … that is free, or holds this run, interrupted. Of several processes the first
    one holds the folder for all.

    Args:
        claim: which folder.
        own: its identity.
        device: that trains.

    Raises:
        BadInput: another run is in the folder, or another process is at work in it.
        StoreError: it cannot be made.
    """
    with ExitStack() as holding:
        said = b""
        if processes.rank() == 0:
            taken = _taken(claim, own, holding)
            said = json.dumps([str(taken), _finished(taken, own)]).encode()
        folder, found = json.loads(processes.from_first(said, device))
        yield RunFolder(Path(folder), own, found)


def _taken(claim: Claim, own: dict[str, Any], holding: ExitStack) -> Path:
    if claim.out:
        folder = Path(claim.out)
        holding.enter_context(_alone(folder))
        if any((folder / name).exists() for name in OF_COMPARISONS):
            raise BadInput(f"{folder} holds a comparison. Give another --out.")
        refuse_others_files(folder)
        if is_interrupted(folder, own):
            return folder
        if claim.overwrite:
            _remove_run(folder)
        elif other := _other_run(folder, own):
            raise BadInput(f"{folder} {other}. Give another --out, or replace what is there with --overwrite.")
        return folder
    for folder in fresh_names(claim.name):
        try:
            holding.enter_context(_alone(folder))
        except BadInput:  # another process is at work there
            continue
        if is_interrupted(folder, own) or not any(folder.glob("[!.]*")):
            return folder
        holding.close()
    raise AssertionError("names never end")


def name_in_comparison(model: str, spaces: Sequence[str], seed: int, hold_out: int = 0) -> str:
    """The folder of a run within that of its comparison.

    Args:
        model: its name.
        spaces: whose vectors it has; empty: ids only.
        seed: of the run.
        hold_out: number of its samples among those of the comparison.
    """
    had = "images" if list(spaces) == [IMAGE_SPACE] else "+".join(spaces)
    return f"{model}-{had or 'ids'}-{seed}{f'-h{hold_out}' if hold_out else ''}"


def fresh_names(name: str) -> Iterator[Path]:
    """Yield ``runs/name``, ``runs/name-2`` and so on."""
    yield RUNS / name
    yield from (RUNS / f"{name}-{number}" for number in count(2))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    def refusal(holder: str) -> str:
        return f"The run folder {folder} is in use by {holder}. Let it end, or give another --out."

    with ExitStack() as holding:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            holding.enter_context(held(folder / LOCK, refusal))
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise StoreError(f"The run folder {folder} cannot be used: {error}.") from error
        try:
            yield
        finally:
            (folder / LOCK).unlink(missing_ok=True)


def holds_run(folder: Path) -> bool:
    """Whether a run ended in a folder, or was interrupted there."""
    return any((folder / name).exists() for name in (STATE, CONFIG, METRICS))


def _finished(folder: Path, own: dict[str, Any]) -> dict[str, Any] | None:
    """What ``fit`` found in the run of this identity that ended in a folder; None: there is none, or it goes on.

    Raises:
        BadInput: it is damaged.
    """
    if (folder / STATE).exists() or not (folder / CONFIG).exists() or _differences(folder, own):
        return None
    found: dict[str, Any] = json.loads(text_of(needed(folder, METRICS)))
    return found


def refuse_others_files(folder: Path) -> None:
    """Refuse a folder without a run that holds files, which nobody could tell from a run's afterwards.

    Beside a run, files are let be: an exported model, or notes. Hidden ones are nobody's data.

    Raises:
        BadInput: it holds samples, or files and no run.
    """
    if (folder / META_FILE).exists():
        raise BadInput(f"{folder} holds samples ({META_FILE}). Give another --out.")
    own = {CONFIG, STATE, *FILES, BOARD}
    others = sorted(path.name for path in folder.glob("[!.]*") if path.name not in own)
    if others and not holds_run(folder):
        raise BadInput(
            f"{folder} holds {others[0]}, which is no file of a run. Give an empty or a new folder as --out."
        )


def _other_run(folder: Path, own: dict[str, Any]) -> str:
    """Which other run is in a folder, as the end of a sentence; empty: none is."""
    if (folder / STATE).exists():
        return "holds an interrupted run with other settings, other samples or other vectors"
    if not (folder / CONFIG).exists():
        return "holds a part of a run" if (folder / METRICS).exists() else ""
    differences = _differences(folder, own)
    return f"holds another run ({'; '.join(differences)})" if differences else ""


def _differences(folder: Path, own: dict[str, Any]) -> list[str]:
    """In what a finished run differs from this one."""
    try:
        there = _identity_there(document_of(folder))
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return ["it cannot be read"]
    if there.keys() != own.keys():
        return ["of a head that 'trainer align' made" if ALIGNED in there else "of a model that 'trainer fit' made"]
    names = {"rows": "other samples", "version": "other vectors"}
    return [
        names.get(name) or f"{name.replace('_', '-')} {_text(there[name])}, not {_text(value)}"
        for name, value in own.items()
        if there[name] != value
    ]


def _identity_there(document: dict[str, Any]) -> dict[str, Any]:
    """Of the run that ``config.json`` tells of."""
    if ALIGNED in document:
        found: dict[str, Any] = document["identity"]
        return found
    fitted, lineage = document["fit"], document["lineage"]
    versions = lineage["versions"]
    if space := lineage["learned"]:
        versions = versions | {space: Version.parse(versions[space]).backbone}  # what the head started from
    return identity(fitted, lineage["samples_hash"], named_versions(versions))


def _text(value: Any) -> str:
    return value if isinstance(value, str) and value else json.dumps(value)


def _remove_run(folder: Path) -> None:
    curves = (folder / BOARD).glob("events.out.tfevents.*")
    for path in (folder / CONFIG, *(folder / name for name in FILES), folder / STATE, *curves):
        path.unlink(missing_ok=True)


@contextmanager
def kept_said(out: Path, state: Epochs) -> Iterator[None]:
    """An error that may not come again says what is kept of a run, and how it goes on."""
    try:
        yield
    except MAY_END as error:
        kept = f"The run in {out} is kept up to the end of epoch {state.epoch}" if state.epoch else "No epoch had ended"
        then = "goes on from there" if state.epoch else "starts the run again"
        error.args = (f"{error} {kept}: the same command {then}.", *error.args[1:])
        raise
