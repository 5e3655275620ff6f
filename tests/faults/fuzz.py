"""Coverage-guided fuzzing of everything that reads bytes of others: ``make fuzz``, or ``python tests/faults/fuzz.py``.

Without arguments every target runs in a process of its own, 1,000,000 runs in all; ``--share 0.1`` makes a tenth of
them. ``fuzz.py TARGET`` with options of libFuzzer runs one; what made it fail lies in a ``crash-*`` file, which
``fuzz.py TARGET FILE`` runs again. A target fails when anything but the errors that its reader documents is raised.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

RUNS = {"reply": 500_000, "requests": 350_000, "head": 100_000, "config": 30_000, "image": 15_000, "catalogue": 5_000}
PHOTOS = Path(__file__).resolve().parents[2] / "examples" / "grocery" / "images"
MAX_LENGTH = 4096
MAX_MEMORY_MB = 8192  # pyarrow believes what a Parquet file says of the size of its columns, before it has read them
COMPILED = "imgserver.storage.hashtable"  # by numba, which knows no counters of a fuzzer
Target = Callable[[bytes], None]


def fuzz_reply(folder: Path) -> tuple[Target, list[bytes]]:
    """``decode_reply``: ServerFault, or what protobuf reads from the same bytes."""
    import numpy as np
    from crossmedia.v1 import image_server_pb2 as pb

    from imgserver.errors import ServerFault
    from imgserver.wire import VectorsReply, decode_reply, encode_reply

    def run(data: bytes) -> None:
        try:
            found = decode_reply(data)
        except ServerFault:
            return
        assert found.values.ndim == 2
        with contextlib.suppress(Exception):
            parsed = pb.GetVectorsResponse.FromString(data)
            assert (found.version, found.generation, found.computed) == (
                parsed.version,
                parsed.generation,
                parsed.computed,
            ), "protobuf reads something else"

    values = np.arange(12, dtype="<f2").reshape(3, 4)
    return run, [encode_reply(VectorsReply("a@1+b@2/4", 7, values, np.ones(3, np.uint8), 1, 2, 3, 4))]


class _Aborted(Exception):
    pass


class _Context:
    """What gRPC hands to a method; an answer of INTERNAL is a bug."""

    def time_remaining(self) -> float:
        return 5.0

    def invocation_metadata(self) -> list[tuple[str, str]]:
        return []

    def add_callback(self, function: Callable[[], None]) -> bool:
        return True

    def set_trailing_metadata(self, metadata: Any) -> None:
        pass

    def abort(self, code: Any, message: str) -> None:
        if code.name in ("INTERNAL", "UNKNOWN"):
            raise AssertionError(f"the call ended with {code.name}: {message}")
        raise _Aborted


def fuzz_requests(folder: Path) -> tuple[Target, list[bytes]]:
    """Every method of the service over a prepared store: the first byte chooses it, the others are its request."""
    import numpy as np
    from crossmedia.v1 import image_server_pb2 as pb
    from google.protobuf.message_factory import GetMessageClass

    from imgserver.serving.grpc_server import _call, _parse, _Servicer
    from imgserver.serving.service import ImageService, ServiceConfig

    ids = folder / "ids.txt"
    ids.write_text("\n".join(str(i) for i in range(100)))
    command = [sys.executable, "-m", "imgserver", "precompute", f"--store={folder / 'store'}", f"--catalogue={PHOTOS}"]
    subprocess.run([*command, f"--ids={ids}", "--dim=16"], check=True, capture_output=True)
    service = ImageService(ServiceConfig(folder / "store", max_message_bytes=1 << 20))
    servicer = _Servicer(service)
    methods = pb.DESCRIPTOR.services_by_name["ImageService"].methods
    readers = [(method.name, GetMessageClass(method.input_type)) for method in methods]

    def run(data: bytes) -> None:
        name, kind = readers[(data[0] if data else 0) % len(readers)]
        with contextlib.suppress(_Aborted):
            _call(servicer, name, _parse(kind, data[1:]), _Context())

    block = np.arange(5, dtype="<i8").tobytes()
    version = service.get_info().version
    head = next((folder / "store" / "heads").glob("*")).read_bytes()[:2000]
    requests = {
        "GetVectors": pb.GetVectorsRequest(version=version, image_ids=block, dtype=pb.DTYPE_FLOAT32),
        "PutImages": pb.PutImagesRequest(images=[pb.PutImage(image_id=500, data=b"\xff\xd8\xff no picture")]),
        "PutHead": pb.PutHeadRequest(run_id="r", version=version, head=head),
        "GetHeadGradient": pb.GetHeadGradientRequest(version=version, image_ids=block, d_vectors=b"\0" * 320),
        "Search": pb.SearchRequest(image_ids=block, k=3),
        "GetThumbnails": pb.GetThumbnailsRequest(image_ids=block, max_side=16),
        "GetInfo": pb.GetInfoRequest(),
    }
    names = [name for name, _ in readers]
    return run, [bytes([names.index(name)]) + request.SerializeToString() for name, request in requests.items()]


def fuzz_head(folder: Path) -> tuple[Target, list[bytes]]:
    """``Head.from_bytes``: BadInput, or a head."""
    from imgserver.errors import BadInput
    from imgserver.head import Head, HeadSpec

    def run(data: bytes) -> None:
        with contextlib.suppress(BadInput):
            Head.from_bytes(data)

    return run, [Head(HeadSpec("pca", (4, 3))).to_bytes(), Head(HeadSpec("learned", (4, 5, 3))).to_bytes()]


def fuzz_config(folder: Path) -> tuple[Target, list[bytes]]:
    """The TOML file of the commands: a usage error, or defaults."""
    import click

    from imgserver.cli import imgserver
    from imgserver.config import _defaults, load_config_file

    file = folder / "c.toml"
    context = click.Context(imgserver, info_name="imgserver")

    def run(data: bytes) -> None:
        file.write_bytes(data)
        with contextlib.suppress(click.UsageError):
            defaults = _defaults(imgserver, context, load_config_file(str(file)).get("imgserver"))
            imgserver.commands["stop"].make_context("stop", [], context, default_map=defaults.get("stop"))

    return run, [b'[imgserver]\nstore = "s"\n[imgserver.serve]\nport = 7070\n', b"imgserver = { serve = { port = 1 } }"]


def fuzz_image(folder: Path) -> tuple[Target, list[bytes]]:
    """Photos of every format: CorruptImage, ImageTooLarge, or pixels."""
    import io

    from PIL import Image

    from imgserver.vision.decode import ImageLimits, Preprocessing, decode, thumbnail
    from imgserver.vision.formats import CorruptImage, ImageTooLarge

    limits = ImageLimits(max_pixels=1_000_000)

    def run(data: bytes) -> None:
        for work in (lambda: decode(data, Preprocessing(size=32), limits), lambda: thumbnail(data, 32, limits)):
            with contextlib.suppress(CorruptImage, ImageTooLarge):
                work()

    seeds = []
    for kind in ("JPEG", "PNG", "GIF", "WEBP", "AVIF", "BMP"):
        out = io.BytesIO()
        Image.new("RGB", (9, 7), "red").save(out, kind)
        seeds.append(out.getvalue())
    return run, seeds


def fuzz_catalogue(folder: Path) -> tuple[Target, list[bytes]]:
    """Parquet files, manifests and tars: BadInput, or photos; OSError for a photo that cannot be read."""
    import io
    import tarfile

    import pyarrow as pa
    import pyarrow.parquet as pq

    from imgserver.errors import BadInput
    from imgserver.storage.catalog import open_catalog

    def run(data: bytes) -> None:
        file = folder / ("x.parquet" if data[:4] == b"PAR1" else "x.tar")
        file.write_bytes(data)
        with contextlib.suppress(BadInput):
            catalog = open_catalog(file)
            for image_id in catalog.ids()[:3].tolist():
                with contextlib.suppress(OSError):
                    catalog.read(image_id, 1000)

    seeds = []
    for table in (
        pa.table({"id": [1, 2], "bytes": pa.array([b"a", b"b"], pa.binary())}),
        pa.table({"image_id": [1, 2], "uri": ["a.jpg", "../b.jpg"]}),
    ):
        sink = io.BytesIO()
        pq.write_table(table, sink, compression="NONE")
        seeds.append(sink.getvalue())
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        info = tarfile.TarInfo("1.jpg")
        info.size = 3
        tar.addfile(info, io.BytesIO(b"abc"))
    return run, [*seeds, out.getvalue()[:2048]]


def run_target(name: str, options: list[str]) -> None:
    """Fuzz one target in this process; libFuzzer ends it."""
    import atheris

    shared_memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared_memory if os.access(shared_memory, os.W_OK) else None) as made:
        folder = Path(made)
        with atheris.instrument_imports(include=["imgserver"], exclude=[COMPILED]):
            target, seeds = globals()[f"fuzz_{name}"](folder)
        logging.disable(logging.ERROR)
        corpus = folder / "corpus"
        corpus.mkdir()
        for number, seed in enumerate(seeds):
            (corpus / str(number)).write_bytes(seed)
        own = [*options, f"-max_len={MAX_LENGTH}", f"-rss_limit_mb={MAX_MEMORY_MB}"]
        if not any(Path(option).is_file() for option in options):
            own.append(str(corpus))
        atheris.Setup([sys.argv[0], *own], target)
        atheris.Fuzz()


def run_all(share: float) -> int:
    """Fuzz every target; return how many failed."""
    failed = 0
    for name, all_runs in RUNS.items():
        runs, started = max(1, int(all_runs * share)), time.monotonic()
        command = [sys.executable, __file__, name, f"-runs={runs}", "-print_final_stats=1", "-seed=1"]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        took = time.monotonic() - started
        made = re.search(r"Done (\d+) runs", done.stderr)
        print(f"{name:10} {made[1] if made else 0:>8} runs in {took:5.0f} s", flush=True)
        if done.returncode or made is None:
            failed += 1
            print("\n".join(done.stderr.splitlines()[-40:]))
    return failed


def main() -> None:
    """See the module."""
    if len(sys.argv) > 1 and sys.argv[1] in RUNS:
        run_target(sys.argv[1], sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description="Fuzz every reader of foreign bytes.")
    parser.add_argument("--share", type=float, default=1.0, help="Share of the 1,000,000 runs to make.")
    sys.exit(run_all(parser.parse_args().share))


if __name__ == "__main__":
    main()
