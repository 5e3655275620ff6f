"""Tables of a TOML file whose keys are taken out one by one, so that a key that nobody takes is an error."""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path
from typing import Any

from crossmedia.errors import BadInput


def is_address(path: str) -> bool:
    """Whether a path is one of fsspec's addresses, and no file of this machine."""
    return "://" in path


def same_path(one: str, other: str) -> bool:
    """Whether two paths name one file."""
    if is_address(one) or is_address(other):
        return one == other
    return Path(one).resolve() == Path(other).resolve()


class TomlTable:
    """One table: values are taken out by key, and what is left at the end is an error.

    Args:
        values: of the table.
        file: that it is in; paths are relative to its folder.
        name: of the table, empty at the top.
    """

    def __init__(self, values: dict[str, Any], file: Path, name: str):
        self.values, self.file, self.name = dict(values), file, name
        self.known: list[str] = []

    @classmethod
    def read(cls, file: Path) -> TomlTable:
        """The top level of a file.

        Raises:
            BadInput: it is missing, or is not TOML.
        """
        try:
            return cls(tomllib.loads(file.read_text(encoding="utf-8-sig")), file, "")
        except OSError as error:
            raise BadInput(f"The schema file {file} cannot be read: {error.strerror}.") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BadInput(f"The schema file {file} is not valid TOML: {error}.") from error

    def fail(self, message: str) -> BadInput:
        """An error that names file and table."""
        return BadInput(f"{self.file}, {f'[{self.name}]' if self.name else 'top level'}: {message}")

    def take(self, key: str, kind: type | tuple[type, ...], default: Any = ...) -> Any:
        """A value of the type ``kind``; the key may be missing when there is a default.

        Raises:
            BadInput: the key is missing, or its value is of another type.
        """
        self.known.append(key)
        if key not in self.values:
            if default is ...:
                raise self.fail(f"the key {key!r} is missing.")
            return default
        value = self.values.pop(key)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise self.fail(f"{key} is {value!r}, which is of the wrong type.")
        return value

    def table(self, key: str) -> TomlTable:
        """A table in this one, which must be there."""
        return TomlTable(self.take(key, dict), self.file, f"{self.name}.{key}".lstrip("."))

    def optional(self, key: str) -> TomlTable | None:
        """A table in this one, or None."""
        self.known.append(key)
        return self.table(key) if key in self.values else None

    def path(self) -> str:
        """The key ``path``, relative to the file; an address such as ``s3://shop/log`` is what it is."""
        path = str(self.take("path", str))
        return path if is_address(path) else str(self.file.parent / path)

    def names(self, key: str) -> tuple[str, ...]:
        """A list of names of columns; empty when the key is missing."""
        found = self.take(key, list, [])
        if not all(isinstance(name, str) for name in found):
            raise self.fail(f"{key} must be a list of column names.")
        return tuple(found)

    def name_or_names(self, key: str) -> tuple[str, ...]:
        """A name of a column or a list of them; empty when the key is missing."""
        if isinstance(self.values.get(key), list):
            return self.names(key)
        name = self.take(key, str, None)
        return () if name is None else (name,)

    def named(self, key: str, default: str) -> dict[str, str]:
        """A table of texts by name of a column, or a list of names that all have the ``default``."""
        if isinstance(self.values.get(key, []), list):
            return dict.fromkeys(self.names(key), default)
        found: dict[str, Any] = self.take(key, dict)
        for name, value in found.items():
            if not isinstance(value, str):
                raise self.fail(f"{key}.{name} is {value!r}, which is of the wrong type: it is a text.")
        return found

    def done(self) -> None:
        """Check that every key was taken.

        Raises:
            BadInput: one was not; the message names it and what may have been meant.
        """
        for key in self.values:
            near = difflib.get_close_matches(key, self.known, 1)
            hint = f" Did you mean {near[0]!r}?" if near else f" The keys here are: {', '.join(self.known)}."
            raise self.fail(f"the key {key!r} is unknown.{hint}")
