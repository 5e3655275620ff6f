"""Exported files that a disk has damaged, or a hand has changed: each is refused before anything of it is used."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from exported_files import write
from test_export_forms import digest, onnx_file, run  # noqa: F401
from test_ladder import folder  # noqa: F401

from crossmedia.errors import BadInput
from crossmedia.features.layout import ITEMS_FILE as ITEMS
from crossmedia.trainer.export import onnx_program
from crossmedia.trainer.export.archive import read_parts
from crossmedia.trainer.export.exported import EXTRA, SCHEMA, Exported, export_model
from crossmedia.trainer.scorer import Scorer

CHANGED = "holds no exported model: its digest is missing, or that of another content"


@pytest.fixture(scope="module")
def pt2_file(run: Path) -> Path:  # noqa: F811
    return export_model(run, out=run.parent / "whole.pt2")


def places(model: Path) -> dict[str, int]:
    """Where in an ONNX file the middle of each weight lies, and of each text of the metadata."""
    data, found = model.read_bytes(), {}
    proto = onnx.ModelProto.FromString(data)
    for tensor in proto.graph.initializer:
        if len(tensor.raw_data) >= 64:  # long enough to be there once
            found[tensor.name] = data.index(tensor.raw_data) + len(tensor.raw_data) // 2
    return found | {one.key: data.index(one.value.encode()) + len(one.value) // 2 for one in proto.metadata_props}


def test_a_bit_of_an_onnx_file_that_changed_is_noticed(onnx_file: Path, tmp_path: Path) -> None:  # noqa: F811
    good, named, rng = onnx_file.read_bytes(), places(onnx_file), np.random.default_rng(0)
    assert {"model.sparse.table.weight", SCHEMA, ITEMS, "sha256"} < named.keys()
    for place in [*named.values(), *rng.integers(1, len(good), 100), len(good) - 1]:
        data = bytearray(good)
        data[place] ^= 1
        (tmp_path / "bad.onnx").write_bytes(data)
        with pytest.raises(BadInput, match=CHANGED):
            Scorer.load(tmp_path / "bad.onnx")


def without_digest(data: bytes) -> bytes:
    proto = onnx.ModelProto.FromString(data)
    del proto.metadata_props[-1]
    return bytes(proto.SerializeToString())


def with_other_items(data: bytes) -> bytes:
    proto = onnx.ModelProto.FromString(data)
    next(one for one in proto.metadata_props if one.key == ITEMS).value = "AAAA"
    return bytes(proto.SerializeToString())


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data + b"xx",
        lambda data: data + onnx.ModelProto(producer_name="x").SerializeToString(),
        lambda data: data[:-1],
        lambda data: data[: len(data) // 2],
        lambda data: data[:1],
        without_digest,
        with_other_items,
    ],
    ids=["bytes behind", "a field behind", "a byte less", "half", "a byte", "no digest", "other items"],
)
def test_an_onnx_file_with_more_or_less_is_refused(
    onnx_file: Path,  # noqa: F811
    tmp_path: Path,
    change: Callable[[bytes], bytes],
) -> None:
    (tmp_path / "bad.onnx").write_bytes(change(onnx_file.read_bytes()))
    with pytest.raises(BadInput, match=CHANGED):
        Scorer.load(tmp_path / "bad.onnx")


@pytest.mark.parametrize(
    ("items", "words"),
    [
        ("AAAA", "its items.parquet is no Parquet file"),
        (base64.b64encode(b"PAR1" * 30).decode(), "its items.parquet is no Parquet file"),
        ("", "its items.parquet is no Parquet file|items.parquet does not lie there"),
        ("AA%A", "base64"),
        ("A", "base64"),
    ],
    ids=["zeros", "a mark alone", "nothing", "no base64", "too short"],
)
def test_items_that_are_none_are_refused_where_nobody_asks_for_them(
    onnx_file: Path,  # noqa: F811
    pt2_file: Path,
    tmp_path: Path,
    items: str,
    words: str,
) -> None:
    """In files that are whole: somebody has put them in and computed the checksums anew."""
    archive = write(read_parts(pt2_file.read_bytes()) | {EXTRA + ITEMS: items.encode()}, tmp_path / "bad.pt2")
    proto = onnx.ModelProto.FromString(onnx_file.read_bytes())
    next(one for one in proto.metadata_props if one.key == ITEMS).value = items
    graph = tmp_path / "bad.onnx"
    graph.write_bytes(onnx_program.sealed(proto.SerializeToString()))
    for file in (archive, graph):
        for wanted in (None, ""):
            with pytest.raises(BadInput, match=f"(?i){re.escape(str(file))} holds no exported model: .*({words})"):
                Scorer.load(file, items=wanted)


def test_the_digest_is_of_what_stands_before_it_and_part_of_the_metadata(onnx_file: Path) -> None:  # noqa: F811
    """What docs/serve.md says of it, so that others can check it in any language."""
    data = onnx_file.read_bytes()
    last = onnx.ModelProto.FromString(data).metadata_props[-1]
    onnx.checker.check_model(data)
    before = onnx_file.with_name("before")
    before.write_bytes(data[:-76])
    assert (last.key, last.value) == ("sha256", digest(before))
    assert Exported(onnx_file).items
