"""Vectors in the stores of others: all of them, then what changed; each recipe is run as its user runs it."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

from crossmedia.imgserver.offline.export import export_vectors
from crossmedia.imgserver.storage.records import SOURCE, Rows
from crossmedia.imgserver.storage.store import Store
from crossmedia.imgserver.storage.versions import vector_space
from crossmedia.status import Status
from crossmedia.version import Version

RECIPES = ROOT / "examples" / "hand_over"
# Each of them, the packages that it needs, and where it writes, below a folder.
NEEDS = {
    "to_lance": (("lance",), "lance"),
    "to_qdrant": (("qdrant_client",), "qdrant"),
    "to_milvus": (("pymilvus", "milvus_lite"), "milvus.db"),
    "to_feast": (("feast",), "."),
}
FEAST = ROOT / ".venv-feast" / "bin" / "python"  # it needs pandas<3, so an environment of its own
REPOSITORY = """
project: shop
provider: local
registry: registry.db
online_store: {type: sqlite, path: online.db}
entity_key_serialization_version: 3
"""
NAME = "v_cnn_0123456789ab_pca_0123456789ab_2"


def put(store: Store, ids: list[int], values: list[float]) -> None:
    space = vector_space(store, Version("cnn@0123456789ab", "pca@0123456789ab", dim=2))
    vectors = np.array([[value, -value] for value in values], dtype=np.float16)
    ok = np.full(len(ids), Status.OK, dtype=np.uint8)
    sources = np.zeros(len(ids), dtype=SOURCE)
    sources["content"] = ids
    store.put(Rows(space, np.array(ids), ok, sources, vectors))


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``all.parquet``, ``next.parquet`` and ``last.parquet``, each of which follows on the one before."""
    folder = tmp_path_factory.mktemp("exports")
    store = Store(folder / "store")
    put(store, list(range(20)), [float(n) for n in range(20)])
    (space,) = store.index.spaces()
    store.index.activate(space.name)
    point = export_vectors(store, folder / "all.parquet").point
    put(store, [3, 77], [50.0, 0.25])
    gone = np.array([5, 6])
    store.index.remove([(space.name, gone, store.index.get(space.name, gone)[0])])
    point = export_vectors(store, folder / "next.parquet", since=point).point
    put(store, [4], [60.0])
    export_vectors(store, folder / "last.parquet", since=point)
    store.close()
    return folder


def run(recipe: str, file: Path, where: Path) -> subprocess.CompletedProcess[str]:
    python = str(FEAST) if recipe == "to_feast" and FEAST.exists() else sys.executable
    command = [python, str(RECIPES / f"{recipe}.py"), str(file), str(where)]
    return subprocess.run(command, capture_output=True, text=True, timeout=280)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", NEEDS)
def test_a_store_of_others_follows(recipe: str, exports: Path, tmp_path: Path) -> None:
    packages, target = NEEDS[recipe]
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing and not (recipe == "to_feast" and FEAST.exists()):
        pytest.skip(f"not installed: {', '.join(missing)}; see examples/in_your_trainer/requirements.txt")
    (tmp_path / "feature_store.yaml").write_text(REPOSITORY)
    early = run(recipe, exports / "next.parquet", tmp_path / target)
    assert early.returncode == 1
    assert "has no vector of this version: export everything" in early.stderr
    whole = run(recipe, exports / "all.parquet", tmp_path / target)
    assert whole.returncode == 0, whole.stderr
    late = run(recipe, exports / "last.parquet", tmp_path / target)
    assert late.returncode == 1
    assert "This file begins at" in late.stderr
    found = [whole.stdout.strip(), run(recipe, exports / "next.parquet", tmp_path / target).stdout.strip()]
    if recipe == "to_feast":
        assert found[0] == f"{NAME}: 20 written; {{0: [0.0, -0.0]}}"
        assert found[1] == f"{NAME}: 4 written; {{3: [50.0, -50.0], 5: None}}"
    else:
        assert found[0] == f"{NAME}: 20 vectors; nearest to 0: [0, 1, 2]"
        assert found[1] == f"{NAME}: 19 vectors; nearest to 0: [0, 77, 1]"


def test_there_is_a_test_of_each() -> None:
    assert {path.stem for path in RECIPES.glob("*.py")} == {*NEEDS, "exported"}
    page = (ROOT / "docs" / "hand-over.md").read_text()
    assert set(re.findall(r'--8<-- "examples/hand_over/(\w+)\.py"', page)) == {*NEEDS, "exported"}
