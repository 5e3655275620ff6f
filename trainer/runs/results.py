"""A file of results: one JSON line a run, appended when it ends, so that a long matrix can be run in parts.

A line's key is what decides its numbers: the data, the model, images on or off, the version of the vectors, the options
and the seed. A run whose key has a line is not trained again; of two lines with one key the later one counts.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import subprocess
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from crossmedia.errors import BadInput
from crossmedia.features.reading.samples import Samples
from crossmedia.trainer import settings
from crossmedia.trainer.settings import PLACES, FitConfig

log = logging.getLogger(__name__)

Line = dict[str, Any]
KEY = ("data", "samples", "model", "images", "vector_version", "options", "seed")
NOT_OPTIONS = PLACES | {"model", "images", "seed"}  # these three are in the key by themselves
DEFAULTS = {name: default for name, default in settings.DEFAULTS.items() if name not in NOT_OPTIONS}
UNNAMED = {name: settings.UNNAMED[name] for name in DEFAULTS}  # of lines of older releases


def key_fields(config: FitConfig, data: str, samples: Samples, vector_version: str) -> Line:
    """The part of a line that says what was run; of samples that hold items out, by which seed, too.

    Args:
        config: of the run.
        data: the name people know the data by.
        samples: the samples themselves, whose hash is in the key.
        vector_version: what the server serves; empty for ids only.
    """
    options = {name: value for name, value in settings.settings_of(config).items() if name not in NOT_OPTIONS}
    values = (data, samples.hash, config.model, config.images, vector_version, options, config.seed)
    held_out = {"hold_out_seed": samples.hold_out_seed} if samples.has_held_out else {}
    return dict(zip(KEY, values, strict=True)) | held_out


def identity(line: Line) -> str:
    """The key of a line as text; options that a line does not name, because they came later, are as they were then."""
    options = sorted({**UNNAMED, **line["options"]}.items())
    return json.dumps([*(line[name] for name in KEY if name != "options"), options])


def of_now(line: Line) -> Line:
    """A line, which names the options that an older release did not."""
    return {**line, "options": UNNAMED | line["options"]}


def new_line(key: Line, result: dict[str, Any]) -> Line:
    """The key, and what ``fit`` returned, but for where it did so.

    The vectors of a head that learned are of a version that only the run itself knew: it stands beside the key, as
    ``learned_version``, for the key names what the run started from.
    """
    line = {**key, **{name: value for name, value in result.items() if name != "out"}}
    if key["images"] and key["options"].get("head", "frozen") != "frozen":
        line |= {"vector_version": key["vector_version"], "learned_version": result["vector_version"]}
    return line


def append(path: Path, line: Line) -> None:
    """Append a line; it is on disk when this returns. Several processes may append to one file.

    Raises:
        BadInput: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0, os.SEEK_END)
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # a process was killed in the middle of its line
                    file.write(b"\n")
            file.write(json.dumps(line).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise BadInput(f"The results file {path} cannot be written: {error}.") from error


def append_new(path: Path, lines: Iterable[Line]) -> None:
    """Append those of some lines whose key no line of the file has.

    Raises:
        BadInput: the file cannot be written, or read.
    """
    known = read([path]) if path.exists() else {}
    for line in lines:
        if identity(line) not in known:
            append(path, line)


def read(paths: Iterable[Path]) -> dict[str, Line]:
    """Lines of some files by ``identity``, the later one of two; a line that was cut off is left out, with a warning.

    Raises:
        BadInput: a file cannot be read, or a whole line is no result.
    """
    found: dict[str, Line] = {}
    for path in paths:
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise BadInput(f"The results file {path} cannot be read: {error}.") from error
        for number, row in enumerate(text.splitlines(), 1):
            try:
                line = json.loads(row)
            except ValueError:
                log.warning("line %d of %s was cut off and is left out", number, path)
                continue
            if not isinstance(line, dict) or not {*KEY, "test", "train", "curve"} <= line.keys():
                raise BadInput(f"Line {number} of {path} is no result of 'trainer compare'.")
            line = of_now(line)
            found.pop(identity(line), None)
            found[identity(line)] = line
    return found


def made() -> dict[str, str]:
    """When something was made, and by which code."""
    return {"commit": code_version(), "date": datetime.now(UTC).isoformat(timespec="seconds")}


def code_version() -> str:
    """The commit of the checkout that this code runs from, with ``-dirty`` when it was changed; else the release."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():  # installed, perhaps into the environment of somebody else's checkout
        return version("crossmedia")
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return version("crossmedia")
    return done.stdout.strip()
