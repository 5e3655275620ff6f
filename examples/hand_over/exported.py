"""A file of 'imgserver export', as a store of others takes it over."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq


@dataclass(frozen=True)
class Exported:
    """What is in the file.

    Attributes:
        version: of the vectors.
        name: the version, as tables and collections may be called: letters, digits and underscores.
        point: that the file is of.
        since: the point that it begins at; empty: it has everything.
        vectors: a table of image_id and vector, fp32.
        removed: ids of images that have no vector any more.
    """

    version: str
    name: str
    point: str
    since: str
    vectors: pa.Table
    removed: list[int]

    @classmethod
    def read(cls, path: str) -> Exported:
        """All of a file."""
        table = pq.read_table(path, columns=["image_id", "vector"])
        told = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
        dim = table.schema.field("vector").type.list_size
        single = pa.schema([("image_id", pa.int64()), ("vector", pa.list_(pa.float32(), dim))])
        there = pc.is_valid(table["vector"])
        version = told["crossmedia.version"]
        return cls(
            version,
            re.sub(r"\W+", "_", f"v_{version}"),
            told["crossmedia.point"],
            told.get("crossmedia.since", ""),
            table.filter(there).cast(single).replace_schema_metadata(None),
            table.filter(pc.invert(there))["image_id"].to_pylist(),
        )

    def rows(self) -> list[dict[str, Any]]:
        """Images with vectors, one dict each."""
        found: list[dict[str, Any]] = self.vectors.to_pylist()
        return found

    def check_follows(self, point: str) -> None:
        """A file of changes follows on what was taken over last.

        Raises:
            SystemExit: it does not, and changes would be missing.
        """
        if self.since and self.since != point:
            there = (
                f"is of {point}: export --since that" if point else "has no vector of this version: export everything"
            )
            raise SystemExit(f"This file begins at {self.since}, and what is there {there}.")
