"""Each place that reads a file of others is in the table of SECURITY.md before it reads."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

from crossmedia.errors import BadInput
from crossmedia.imgserver.vision.onnx_file import onnx_backbone

READERS = (
    *(
        "torch.load",
        "torch.hub.download_url_to_file",
        "load_file",
        "safetensors.torch.load",
        "safe_open",
        "load_tensors",
    ),
    *("np.load", "np.fromfile", "np.memmap", "np.lib.format.open_memmap", "lmdb.open", "mmap.mmap"),
    *("pq.ParquetFile", "pq.read_table", "pq.ParquetDataset", "ds.dataset", "pyarrow.csv.open_csv", "pa.ipc.open_file"),
    *("tomllib.loads", "tomllib.load", "tarfile.open", "zipfile.ZipFile", "Image.open", "read_index", "read_model"),
    *("lightgbm.Booster", "torch.export.load", "torch.jit.load", "onnx.load", "yaml.safe_load", "csv.reader"),
)
# Readers of safetensors.
OF_SAFETENSORS = {"load", "load_file", "safe_open", "load_model"}


def reads(tree: ast.AST) -> Iterator[str]:
    """Calls of readers, and compiled code that numba keeps."""
    own = {  # under whatever name
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("safetensors")
        for alias in node.names
        if alias.name in OF_SAFETENSORS
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            cached = any(word.arg == "cache" and ast.unparse(word.value) == "True" for word in node.keywords)
            if name in own or name.endswith(READERS) or (name == "njit" and cached):
                yield name


def rows() -> list[list[str]]:
    text = (ROOT / "SECURITY.md").read_text()
    table = text.partition("## Files of others")[2].partition("\n## ")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line[:3] == "| `"]


def test_the_table_names_every_module_that_reads_and_no_other() -> None:
    named = {name for row in rows() for name in re.findall(r"`([\w/]+\.py)`", row[1])}
    reading = {
        str(file.relative_to(ROOT))
        for package in ("crossmedia", "crossmedia/service", "imgserver", "features", "trainer")
        for file in (ROOT / package).glob("*.py" if package.startswith("crossmedia") else "**/*.py")
        if any(reads(ast.parse(file.read_text())))
    }
    assert reading - named == set(), "reads files, and SECURITY.md does not say what a hostile one can do"
    assert {name for name in named if not (ROOT / name).is_file()} == set()


def test_every_row_says_all_of_it() -> None:
    found = rows()
    assert len(found) > 10
    assert all(len(row) == 4 and all(row) for row in found)


@pytest.mark.parametrize(
    "code",
    [
        "torch.load(f, weights_only=True)",
        "from safetensors.torch import load\nload(block)",
        "faiss_module().read_index(f)",
        "@njit(nogil=True, cache=True)\ndef f(): ...",
        "core.read_model(f)",
        "lightgbm.Booster(model_str=text)",
    ],
)
def test_the_search_for_readers_finds_them(code: str) -> None:
    assert list(reads(ast.parse(code)))


@pytest.mark.parametrize("place", ["../outside.bin", "{folder}/outside.bin", "link.bin", "/proc/self/environ"])
def test_an_onnx_file_takes_no_weights_from_elsewhere(tmp_path: Path, place: str) -> None:
    """Features would tell what is in a file that only the server may read."""
    from onnx import TensorProto, helper

    home = tmp_path / "home"
    home.mkdir()
    np.arange(12, dtype=np.float32).tofile(tmp_path / "outside.bin")
    (home / "link.bin").symlink_to(tmp_path / "outside.bin")
    np.arange(12, dtype=np.float32).tofile(home / "inside.bin")
    (home / "net.toml").write_text("size = 8\nmean = [0, 0, 0]\nscale = [1, 1, 1]\n")

    def write(location: str) -> str:
        weights = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[3, 4], data_location=TensorProto.EXTERNAL)
        for key, value in {"location": location, "offset": "0", "length": "48"}.items():
            weights.external_data.add(key=key, value=value)
        pooled = helper.make_node("ReduceMean", ["x"], ["m"], axes=[2, 3], keepdims=0)
        pixels = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])
        feature = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])
        nodes = [pooled, helper.make_node("MatMul", ["m", "w"], ["y"])]
        graph = helper.make_graph(nodes, "net", [pixels], [feature], [weights])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        (home / "net.onnx").write_bytes(model.SerializeToString())
        return f"onnx:{home / 'net.onnx'}"

    assert onnx_backbone(write("inside.bin")).feature_dim == 4
    with pytest.raises(BadInput, match="OpenVINO cannot read"):
        onnx_backbone(write(place.format(folder=tmp_path)))
