"""The files of a table: one file, or those of a folder, on this machine or behind an address that fsspec knows.

Folders may be named ``key=value``, as Hive and Spark write them: then ``key`` is a column of the files in them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

import pyarrow as pa

from crossmedia.errors import BadInput
from crossmedia.features.toml_table import is_address

PARQUET_SUFFIXES = (".parquet", ".pq")
CSV_SUFFIXES = (".csv", ".csv.gz", ".csv.bz2", ".csv.zst")
_CODECS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True)
class DataFile:
    """One file.

    Attributes:
        address: path or URL, as messages show it.
        size: bytes.
        parts: column -> value of the ``key=value`` folders that it is in; None where there is none.
        system: fsspec's file system; None for a file of this machine.
        path: within that.
    """

    address: str
    size: int
    parts: dict[str, str | None]
    system: Any = None
    path: str = ""

    def __str__(self) -> str:
        return self.address

    @property
    def name(self) -> str:
        """Without its folder."""
        return PurePosixPath(self.address).name

    @property
    def is_parquet(self) -> bool:
        """By its name."""
        return self.name.lower().endswith(PARQUET_SUFFIXES)

    @property
    def is_csv(self) -> bool:
        """By its name."""
        return self.name.lower().endswith(CSV_SUFFIXES)

    def stream(self) -> Any:
        """Its content as a file of Arrow, decompressed if its name says that it is compressed.

        Raises:
            OSError: it cannot be opened.
        """
        codec = _CODECS.get(PurePosixPath(self.name.lower()).suffix)
        source = self.address if self.system is None else pa.PythonFile(self.system.open(self.path, "rb"), mode="r")
        return pa.input_stream(source, compression=codec)


def data_files(path: str) -> tuple[list[DataFile], list[DataFile]]:
    """The files of a table, and the other files of its folder, without hidden ones (a name begins with . or _).

    Raises:
        BadInput: there is none, or they are of two kinds, or the address cannot be read.
    """
    every = list(_behind(path) if is_address(path) else _here(path))
    if len(every) == 1 and every[0].address.rstrip("/") == path.rstrip("/"):
        return every, []
    found = [file for file in every if file.is_parquet or file.is_csv]
    others = [file for file in every if not (file.is_parquet or file.is_csv)]
    if not found:
        there = f"; what is there begins with {others[0].name}" if others else ""
        raise BadInput(
            f"The folder {path} holds no .parquet, .csv or .csv.gz file (names that begin with . or _ are passed "
            f"over){there}."
        )
    if len({file.is_parquet for file in found}) > 1:
        raise BadInput(f"The folder {path} holds both Parquet and CSV files; a table is of one kind.")
    return found, others


def _here(path: str) -> Iterator[DataFile]:
    root = Path(path)
    if not root.exists():
        raise BadInput(f"The file {path} does not exist.")
    if root.is_file():
        yield DataFile(path, root.stat().st_size, {})
        return
    for file in sorted(root.rglob("*")):
        names = file.relative_to(root).parts
        if file.is_file() and not _hidden(names):
            yield DataFile(str(file), file.stat().st_size, _parts(names[:-1]))


def _behind(url: str) -> Iterator[DataFile]:
    try:
        import fsspec

        system, root = fsspec.url_to_fs(url)
        system.invalidate_cache()
        found = system.find(root, detail=True)
    except (ImportError, ValueError) as error:
        raise BadInput(
            f"The table {url} cannot be opened: {error}. For s3:// and https:// install: "
            f'pip install "crossmedia[remote]"'
        ) from error
    except FileNotFoundError:
        found = {}
    except Exception as error:  # each file system raises errors of its own
        raise BadInput(f"The table {url} cannot be listed: {error or type(error).__name__}.") from error
    if not found:
        raise BadInput(f"There is no file at {url}. Check the address, and that its credentials may list it.")
    root = root.rstrip("/")
    for path, info in sorted(found.items()):
        names = PurePosixPath(path[len(root) :].lstrip("/")).parts
        if not _hidden(names):
            address = str(system.unstrip_protocol(path))
            yield DataFile(
                url if path == root else address, int(info.get("size") or 0), _parts(names[:-1]), system, path
            )


def _hidden(names: tuple[str, ...]) -> bool:
    return any(name.startswith((".", "_")) for name in names)


def _parts(folders: tuple[str, ...]) -> dict[str, str | None]:
    """The values that folders name, as Hive escapes them."""
    found: dict[str, str | None] = {}
    for folder in folders:
        key, is_part, value = folder.partition("=")
        if is_part and key:
            found[unquote(key)] = None if value == _NO_VALUE else unquote(value)
    return found
