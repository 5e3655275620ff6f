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
from concurrent.futures import Future
from pathlib import Path
from typing import Any, ClassVar

RUNS = {
    **{"reply": 250_000, "replies": 200_000, "failures": 100_000, "requests": 300_000, "head": 100_000},
    **{"config": 30_000, "image": 15_000, "catalogue": 5_000, "scores": 95_000, "exported": 5_000},
}
PHOTOS = Path(__file__).resolve().parents[2] / "examples" / "grocery" / "images"
MAX_LENGTH = 4096
MAX_MEMORY_MB = 8192  # pyarrow believes what a Parquet file says of the size of its columns, before it has read them
# By numba, which knows no counters of a fuzzer.
COMPILED = [
    *("crossmedia.imgserver.hashing", "crossmedia.imgserver.client.cached_rows"),
    *(f"crossmedia.imgserver.storage.{name}" for name in ("hashtable", "cluster.codec", "compiled.checksums")),
    "crossmedia.imgserver.storage.compiled.codebook",
]
Target = Callable[[bytes], None]


def fuzz_reply(folder: Path) -> tuple[Target, list[bytes]]:
    """``decode_reply``: ValueError, or what protobuf reads from the same bytes."""
    import numpy as np

    from crossmedia.imgserver.wire import VectorsReply, decode_reply, encode_reply
    from crossmedia.v1 import image_server_pb2 as pb

    def run(data: bytes) -> None:
        try:
            found = decode_reply(data)
        except ValueError:
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


def fuzz_replies(folder: Path) -> tuple[Target, list[bytes]]:
    """A client's calls, answered by anything: the first byte chooses one, the others are the reply.

    An error of ours, in a line that can be printed; or what the client promises of its result.
    """
    import numpy as np
    from safetensors.numpy import save

    from crossmedia.errors import CrossMediaError
    from crossmedia.imgserver.client import GrpcTransport, ImageClient
    from crossmedia.imgserver.client.head_servers import HeadState, head_gradient, put_head
    from crossmedia.imgserver.client.health import health_state
    from crossmedia.imgserver.client.retries import Deadline
    from crossmedia.v1 import image_server_pb2 as pb

    class Reply:
        """One of a server that answers with bytes made before."""

        def __init__(self, reply: bytes):
            self.reply = reply

        def __call__(self, request: bytes, **options: Any) -> bytes:
            return self.reply

        def future(self, request: bytes, **options: Any) -> Any:
            done: Future[bytes] = Future()
            done.set_result(self.reply)
            return done

    class Answered(GrpcTransport):
        replies: ClassVar[dict[str, bytes]] = {}

        def _method(self, method: Any) -> Any:
            return Reply(self.replies[method.name])

    class Channel:
        def unary_unary(self, path: str) -> Any:
            return Reply(Answered.replies["Check"])

    version = "a@1+b@2/4"
    limits_told = pb.Limits(max_message_bytes=1 << 20, max_image_bytes=1 << 20, max_image_pixels=100)
    limits_told.max_ids_per_call = limits_told.max_thumbnails_per_call = limits_told.max_put_per_call = 100
    told = pb.GetInfoResponse(version=version, dim=4, limits=limits_told)
    honest = {"GetInfo": told.SerializeToString()}
    head = HeadState(version, save({"w": np.ones((2, 3), np.float32)}))
    # From offset 2 on: SOI, a quantisation table of no size, and the frame's header.
    jpeg = b"\xff\xd8\xff\xdb\0\2\xff\xc0\0\x0b\x08\0\x10\0\x10\1\1\x11\0"
    ids, ok = np.arange(3), b"\1" * 3

    def vectors(client: ImageClient) -> None:
        found = client.get(ids)
        assert found.values.shape == (3, 4)
        assert np.isfinite(found.values).all()
        assert not found.values[~found.ok].any()

    def near(client: ImageClient) -> None:
        found = client.search(ids, k=2)
        assert found.image_ids.shape == found.cosines.shape == (3, 2)
        assert (found.image_ids >= -1).all()
        assert (np.abs(found.cosines) <= 1).all()

    def small(client: ImageClient) -> None:
        assert all(one is None or one[:2] == b"\xff\xd8" for one in client.thumbnails(ids))

    def gradient(client: ImageClient) -> None:
        (found,) = head_gradient(client, head, ids, np.ones((3, 4), np.float32), Deadline.after(30))
        assert found["w"].shape == (2, 3)
        assert np.isfinite(found["w"]).all()

    def limits(client: ImageClient) -> None:
        assert client.info().limits.max_ids_per_call > 0

    photos = dict.fromkeys(range(3), b"photo")
    calls: list[tuple[Callable[[ImageClient], Any], str, Any]] = [
        (limits, "GetInfo", told),
        (
            vectors,
            "GetVectors",
            pb.GetVectorsResponse(version=version, dim=4, dtype=pb.DTYPE_FLOAT16, vectors=b"\0" * 24, status=ok),
        ),
        (near, "Search", pb.SearchResponse(version=version, image_ids=b"\xff" * 48, cosines=b"\0" * 24, status=ok)),
        (small, "GetThumbnails", pb.GetThumbnailsResponse(jpegs=[jpeg] * 3)),
        (lambda client: client.put(photos), "PutImages", pb.PutImagesResponse(version=version, status=ok)),
        (
            lambda client: put_head(client, "r", head, Deadline.after(30)),
            "PutHead",
            pb.PutHeadResponse(version=version),
        ),
        (
            gradient,
            "GetHeadGradient",
            pb.GetHeadGradientResponse(version=version, gradient=head.weights),
        ),
    ]

    def run(data: bytes) -> None:
        number, reply = (data[0] if data else 0) % (len(calls) + 1), data[1:]
        if number == len(calls):
            Answered.replies = {"Check": reply}
            assert health_state(Channel(), 1.0).isprintable()  # type: ignore[arg-type]
            return
        call, name, _ = calls[number]
        Answered.replies = {**honest, name: reply}
        said = ""
        try:
            # What is transient would be asked for again until the deadline: a pause is longer than that.
            with ImageClient(Answered("server"), timeout_s=0.02) as client:
                call(client)
        except CrossMediaError as error:
            said = str(error)
        assert said.isprintable(), "an error holds what cannot be printed"

    seeds = [bytes([place]) + reply.SerializeToString() for place, (_, _, reply) in enumerate(calls)]
    return run, [*seeds, bytes([len(calls)]) + b"\x08\1"]


def fuzz_failures(folder: Path) -> tuple[Target, list[bytes]]:
    """A failed call: its code, its class, the time to come back, and text; one of our errors, which can be printed."""
    import grpc

    from crossmedia.errors import ERROR_NAME_KEY, RETRY_AFTER_KEY, CrossMediaError, Overloaded
    from crossmedia.imgserver.client.failures import translated

    codes = list(grpc.StatusCode)

    class Failed:
        def __init__(self, data: bytes):
            name, hint, *text = data[1:].decode(errors="surrogateescape").split("\0", 2)
            self._code, self._text = codes[data[0] % len(codes)], "".join(text)
            self._metadata = ((ERROR_NAME_KEY, name), (RETRY_AFTER_KEY, hint))

        def code(self) -> grpc.StatusCode:
            return self._code

        def details(self) -> str:
            return self._text

        def trailing_metadata(self) -> Any:
            return self._metadata

    def run(data: bytes) -> None:
        if data.count(b"\0", 1) < 1:
            return
        found = translated(Failed(data), "server:7070", 1.0, "0" * 32)
        assert isinstance(found, CrossMediaError)
        assert str(found).isprintable()
        assert len(str(found)) < 2000
        assert not isinstance(found, Overloaded) or 0 <= found.retry_after_s < 1e6

    place = codes.index(grpc.StatusCode.RESOURCE_EXHAUSTED)
    seeds = [b"Overloaded\0" + b"100\0full", b"Overloaded\0nan\0\x1b[2J", b"SystemExit\0\0" + "\u202e".encode()]
    return run, [bytes([place]) + seed for seed in seeds]


class _Aborted(Exception):
    pass


class _Context:
    """What gRPC hands to a method; an answer of INTERNAL is a bug."""

    def time_remaining(self) -> float:
        return 5.0

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"

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

    from crossmedia.imgserver.serving.grpc_server import api_of
    from crossmedia.imgserver.serving.service import ImageService, ServiceConfig
    from crossmedia.service.calls import Deadlines
    from crossmedia.service.grpc_server import Methods
    from crossmedia.v1 import image_server_pb2 as pb

    ids = folder / "ids.txt"
    ids.write_text("\n".join(str(i) for i in range(100)))
    command = [
        sys.executable,
        "-m",
        "crossmedia.imgserver",
        "precompute",
        f"--store={folder / 'store'}",
        f"--catalogue={PHOTOS}",
    ]
    subprocess.run([*command, f"--ids={ids}", "--dim=16"], check=True, capture_output=True)
    service = ImageService(ServiceConfig(folder / "store", max_message_bytes=1 << 20))
    answering = Methods(api_of(service), Deadlines())
    names = [method.name for method in pb.DESCRIPTOR.services_by_name["ImageService"].methods]

    def run(data: bytes) -> None:
        name = names[(data[0] if data else 0) % len(names)]
        with contextlib.suppress(_Aborted):
            answering.answer(name, iter([data[1:]]), _Context())

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
        "GetConcepts": pb.GetConceptsRequest(version=version),
        "GetInfo": pb.GetInfoRequest(),
    }
    return run, [bytes([names.index(name)]) + request.SerializeToString() for name, request in requests.items()]


def fuzz_scores(folder: Path) -> tuple[Target, list[bytes]]:
    """The scoring server: the first byte chooses a method of gRPC, or the JSON of REST; the others are its request."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from made_samples import make_samples

    from crossmedia.errors import CrossMediaError
    from crossmedia.imgserver.client import ImageClient
    from crossmedia.inference import grpc_predict_v2_pb2 as pb
    from crossmedia.service.calls import Deadlines
    from crossmedia.service.grpc_server import Methods
    from crossmedia.trainer.fit import FitConfig, fit
    from crossmedia.trainer.serving.api import api_of
    from crossmedia.trainer.serving.models import Models
    from crossmedia.trainer.serving.rest import message_of
    from crossmedia.trainer.serving.served import ServedModel
    from crossmedia.trainer.serving.service import Limits, ScoringService
    from crossmedia.trainer.serving.settings import ServingConfig

    samples = make_samples(folder, 20, 600, {item: item for item in range(20)})
    fit(FitConfig(str(samples), str(folder / "din"), "din", images=False, epochs=1))
    model = ServedModel.load(folder / "din", "", config=ServingConfig(), client=ImageClient)
    service = ScoringService(Models([model]), Limits(max_candidates=1000))
    answering = Methods(api_of(service), Deadlines())
    names = [*api_of(service).methods, "REST"]

    def run(data: bytes) -> None:
        name = names[(data[0] if data else 0) % len(names)]
        if name == "REST":
            with contextlib.suppress(CrossMediaError):
                service.infer(message_of(data[1:], "din", ""), time.monotonic() + 30)
            return
        with contextlib.suppress(_Aborted):
            answering.answer(name, iter([data[1:]]), _Context())

    request = pb.ModelInferRequest(model_name="din", id="a")
    request.parameters["now"].int64_param = 2000
    for column, value in {"user_id": b"u1", "item_id": b"i1", "hist_item_id": b"i2"}.items():
        request.inputs.add(name=column, datatype="BYTES", shape=[1])
        request.raw_input_contents.append(len(value).to_bytes(4, "little") + value)
    typed = pb.ModelInferRequest(model_name="din")
    typed.inputs.add(name="item_id", datatype="INT64", shape=[1]).contents.int64_contents.append(1)
    load = pb.RepositoryModelLoadRequest(model_name="din")
    load.parameters["canary"].string_param = "5%"
    load.parameters["trust_native"].string_param = "0f" * 32
    json_form = b'{"inputs": [{"name": "item_id", "datatype": "BYTES", "shape": [1], "data": ["i1"]}]}'
    known: dict[str, list[Any]] = {
        "ModelInfer": [request, typed],
        "ModelMetadata": [pb.ModelMetadataRequest(name="din")],
    }
    known |= {"RepositoryModelLoad": [load], "ModelReady": [pb.ModelReadyRequest(name="din")]}
    seeds = [bytes([names.index(name)]) + one.SerializeToString() for name, of in known.items() for one in of]
    return run, [*seeds, bytes([names.index("REST")]) + json_form]


def fuzz_exported(folder: Path) -> tuple[Target, list[bytes]]:
    """Exported models, as data: BadInput, or a model; their parts one after the other, since an archive has checksums.

    The first byte chooses a part of a good file that the other bytes take the place of, or the whole file.
    """
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from exported_files import write
    from made_samples import make_samples

    from crossmedia.errors import BadInput
    from crossmedia.trainer.export.archive import read_parts
    from crossmedia.trainer.export.exported import Exported, export_model
    from crossmedia.trainer.fit import FitConfig, fit

    samples = make_samples(folder, 20, 600, {item: item for item in range(20)})
    fit(FitConfig(str(samples), str(folder / "run"), "mlr", images=False, epochs=1))
    good = export_model(folder / "run", out=folder / "good.pt2").read_bytes()
    parts = {name: data for name, data in read_parts(good).items() if not name.startswith(".data")}
    small = [name for name, data in parts.items() if len(data) < MAX_LENGTH]

    def run(data: bytes) -> None:
        place = (data[0] if data else 0) % (len(small) + 1)
        file = folder / "x.pt2"
        file.write_bytes(data[1:])
        if place < len(small):
            write(parts | {small[place]: data[1:]}, file)
        with contextlib.suppress(BadInput):
            Exported(file)

    return run, [bytes([place]) + parts[name] for place, name in enumerate(small)]


def fuzz_head(folder: Path) -> tuple[Target, list[bytes]]:
    """``Head.from_bytes``: BadInput, or a head."""
    from crossmedia.errors import BadInput
    from crossmedia.imgserver.head import Head, HeadSpec

    def run(data: bytes) -> None:
        with contextlib.suppress(BadInput):
            Head.from_bytes(data)

    return run, [Head(HeadSpec("pca", (4, 3))).to_bytes(), Head(HeadSpec("learned", (4, 5, 3))).to_bytes()]


def fuzz_config(folder: Path) -> tuple[Target, list[bytes]]:
    """The TOML file of the commands: a usage error, or defaults."""
    import click

    from crossmedia.config import _defaults, load_config_file
    from crossmedia.imgserver.cli import imgserver

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

    from crossmedia.imgserver.vision.decode import ImageLimits, Preprocessing, decode, thumbnail
    from crossmedia.imgserver.vision.formats import CorruptImage, ImageTooLarge

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

    from crossmedia.errors import BadInput
    from crossmedia.imgserver.storage.catalogue import open_catalogue

    def run(data: bytes) -> None:
        file = folder / ("x.parquet" if data[:4] == b"PAR1" else "x.tar")
        file.write_bytes(data)
        with contextlib.suppress(BadInput):
            catalogue = open_catalogue(file)
            for image_id in catalogue.ids()[:3].tolist():
                with contextlib.suppress(OSError):
                    catalogue.read(image_id, 1000)

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
        with atheris.instrument_imports(include=["crossmedia"], exclude=COMPILED):
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
