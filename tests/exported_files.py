"""Exported files with changes, as PyTorch's own writer writes them."""

from __future__ import annotations

from pathlib import Path

import torch

from crossmedia.trainer.export import native
from crossmedia.trainer.export.archive import read_parts

Parts = dict[str, bytes]


def write(parts: Parts, path: Path) -> Path:
    """An archive as PyTorch writes it, so that nothing but its content can be refused."""
    writer = torch._C.PyTorchFileWriter(str(path))
    writer.set_min_version(6)
    for name, data in parts.items():
        if not name.startswith(".data"):  # which it writes itself
            writer.write_record(name, data, len(data))
    writer.write_end_of_file()
    return path


def with_native_code(file: Path, out: Path) -> Path:
    """A file that says that it has native code, which is none."""
    return write(read_parts(file.read_bytes()) | {native.PARTS + "model/x.so": b"\x7fELF"}, out)
