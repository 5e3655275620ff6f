"""Opens damaged stores, in a process of its own, for some of them may end it; told by lines of JSON what to do."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from click.testing import CliRunner

from crossmedia.errors import CrossMediaError
from crossmedia.imgserver.cli import imgserver
from crossmedia.imgserver.serving.health import built_in_photo
from crossmedia.imgserver.serving.service import ImageService, ServiceConfig
from crossmedia.imgserver.storage import store as stores
from crossmedia.imgserver.storage import table as tables
from crossmedia.imgserver.storage.store import Store
from crossmedia.imgserver.vision.backbones import get_backbone
from crossmedia.imgserver.vision.decode import ImageLimits, decode
from crossmedia.imgserver.vision.engines import OpenVinoEngine
from crossmedia.imgserver.vision.machine import Machine
from crossmedia.imgserver.wire import SEARCH
from crossmedia.status import Status
from crossmedia.v1 import image_server_pb2 as pb

IMAGES = 60
IDS = np.arange(IMAGES, dtype="<i8")
for module in (stores, tables):
    setattr(module, "SNAPSHOT_FROM", 10)  # noqa: B010  # so that small stores have snapshots


def run(command: str) -> None:
    """A command of imgserver, in this process."""
    done = CliRunner().invoke(imgserver, shlex.split(command))
    if done.exit_code:
        raise RuntimeError(f"imgserver {command} ended with {done.exit_code}: {done.output} {done.exception!r}")


def build(store: Path, photos: Path) -> dict[str, Any]:
    """A store with all that there can be in one: features, vectors, codes, an import, an index, heads, an engine."""
    catalogue = catalogue_of(store)
    catalogue.mkdir()
    for image_id in range(IMAGES):
        shutil.copy(photos / f"{image_id:03d}.jpg", catalogue)
    run(f"precompute --store {store} --catalogue {catalogue} --dim 16")
    opened = Store(store)
    active = opened.index.active
    opened.close()
    rng = np.random.default_rng(0)
    vectors = [row.tolist() for row in rng.standard_normal((IMAGES, 8)).astype(np.float16)]
    columns = [pa.array(IDS), pa.array(vectors, pa.list_(pa.float16()))]
    pq.write_table(pa.table(columns, names=["image_id", "vector"]), imported_file(store))
    run(f"import --store {store} --name other {imported_file(store)}")
    run(f"versions --store {store} --activate {active}")
    run(f"compress --store {store} --bytes 4")
    run(f"index --store {store}")
    return {"versions": [active]}


def catalogue_of(store: Path) -> Path:
    """Where the photos of a store are."""
    return store.parent / "photos"


def imported_file(store: Path) -> Path:
    """What its imported version came from."""
    return store.parent / "other.parquet"


def good(store: Path, _: Path) -> dict[str, Any]:
    """All vectors of a store that is whole, into the file that ``look`` compares with."""
    opened = Store(store)
    names = [space.name for space in opened.index.spaces()]
    opened.close()
    service = serve(store)
    np.savez(store.parent / "good.npz", **{name: vectors_of(service, name)[0] for name in names})
    service.close()
    return {"versions": names}


def serve(store: Path) -> ImageService:
    """A service with its active table loaded."""
    service = ImageService(ServiceConfig(store, machine=Machine(threads=1)))
    service.served.load()
    return service


def vectors_of(service: ImageService, version: str) -> tuple[Any, Any]:
    """Of all images: rows and status."""
    request = pb.GetVectorsRequest(image_ids=IDS.tobytes(), version=version)
    reply = service.get_vectors(request, time.monotonic() + 30)
    return np.asarray(reply.values), np.asarray(reply.status)


def look(store: Path, _: Path) -> dict[str, Any]:
    """Every vector of every version, and a search: how many are wrong, not there, or refused."""
    expected = dict(np.load(store.parent / "good.npz"))
    found: dict[str, Any] = {"wrong": 0, "failed": 0, "missing": 0, "errors": []}
    try:
        service = serve(store)
    except CrossMediaError as error:
        return {**found, "errors": [str(error)]}
    try:
        for name, right in expected.items():
            try:
                values, status = vectors_of(service, name)
            except CrossMediaError as error:
                found["errors"].append(str(error))
                continue
            found["wrong"] += int(((values != right).any(1) & (status == Status.OK)).sum())
            found["missing"] += int((status == Status.NOT_FOUND).sum())
            found["failed"] += int(((status != Status.OK) & (status != Status.NOT_FOUND)).sum())
        try:
            reply = service.answer(SEARCH, pb.SearchRequest(image_ids=IDS[:5].tobytes(), k=3), time.monotonic() + 30)
            near = np.frombuffer(reply.image_ids, "<i8")
            asked = np.frombuffer(reply.status, np.uint8) == Status.OK
            found["wrong"] += int((~np.isin(near.reshape(5, 3)[asked], IDS)).sum())
        except CrossMediaError as error:
            found["errors"].append(str(error))
    finally:
        service.close()
    return found


def embed(store: Path, _: Path) -> dict[str, Any]:
    """Whether the converted backbone gives the features that it gave when it was whole."""
    file = store.parent / "feature.npy"
    backbone = get_backbone("efficientnet_lite0")
    pixels = decode(built_in_photo(), backbone.preprocessing, ImageLimits())[None].copy()
    feature = OpenVinoEngine(backbone, store / "engine", Machine(threads=1)).run(pixels)
    if not file.exists():
        np.save(file, feature)
    return {"wrong": int((feature != np.load(file)).any()), "failed": 0, "missing": 0, "errors": []}


def mend(store: Path, _: Path) -> dict[str, Any]:
    """Do what ``imgserver mend`` does and what it advises, to the letter; what it said."""
    done = CliRunner().invoke(imgserver, ["mend", "--store", str(store), "--json"])
    if done.exit_code:
        return {"said": done.output, "mended": False}
    report = json.loads(done.stdout)
    for line in report["advice"]:
        for command in re.findall(r"'imgserver ([^']*)'", line):
            active = json.loads((store.parent / "versions.json").read_text())[0]
            words = command.replace("FOLDER", str(catalogue_of(store))).replace("FILE", str(imported_file(store)))
            words = words.replace("VERSION", active)
            run(words)
    return {"said": "; ".join(report["advice"]), "mended": True}


def main() -> None:
    """One command a line: its name, the store, the photos."""
    for line in sys.stdin:
        name, store, photos = json.loads(line)
        try:
            found = globals()[name](Path(store), Path(photos))
        except Exception as error:
            found = {"trace": f"{type(error).__name__}: {error}"}
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
