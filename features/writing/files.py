"""Write samples to Parquet, one row group at a time."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from crossmedia.features.layout import histories_file, rows_file
from crossmedia.features.splits import SPLITS
from crossmedia.features.writing.encode import EncodedPart

ROW_GROUP = 50_000


class SampleWriter:
    """Writes the files of all splits part by part. Rows keep the order of the parts.

    Args:
        folder: where they go.
        metadata: of the files.
    """

    def __init__(self, folder: Path, metadata: dict[str, str]):
        self._folder, self._metadata = folder, metadata
        self._writers: dict[str, Any] = {}
        self._open = ExitStack()

    def __enter__(self) -> SampleWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def write(self, encoded: EncodedPart) -> None:
        """Write the rows of a part, each to its split."""
        for number, split in enumerate(SPLITS):
            chosen = np.flatnonzero(encoded.part.split == number)
            for first in range(0, len(chosen), ROW_GROUP):
                rows = chosen[first : first + ROW_GROUP]
                columns = encoded.columns(rows)
                if encoded.part.behaviours is not None:
                    of_rows, histories = encoded.histories(rows)
                    self._row_group(histories_file(split), histories)
                    columns |= of_rows
                self._row_group(rows_file(split), columns)

    def _row_group(self, file: str, columns: dict[str, Any]) -> None:
        table = pa.table(columns).replace_schema_metadata(self._metadata)
        if file not in self._writers:
            writer = pq.ParquetWriter(self._folder / file, table.schema, compression="zstd", write_page_checksum=True)
            self._writers[file] = self._open.enter_context(writer)
        self._writers[file].write_table(table)
