"""How fast do photos become vectors, beside the best loop that one can write around the same CNN?

    python -m benchmarks.embed
    python -m benchmarks.embed --parts int8          # nets in narrow numbers, see embed_narrow

EfficientNet-Lite0 on JPEGs of 500 x 500, made from the photos of the demo, and on the posters of the shared data when
``CROSSMEDIA_TEST_DATA`` names it. Each round takes photos that no part has seen.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tarfile
import tempfile
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import embed_narrow
from benchmarks.parts import Part, Work, as_dict, copy_store, daemon, finish, run_rounds, show
from crossmedia.imgserver.vision.machine import Machine
from crossmedia.imgserver.vision.photo_source import PhotoSource

PHOTOS = Path(__file__).resolve().parent.parent / "examples" / "grocery" / "images"
BACKBONE = "efficientnet_lite0"
THREADS = 2
BATCH = 32


def make_photos(folder: Path, n: int) -> None:
    """JPEGs of 500 x 500, quality 85: crops of real photos, no two the same."""
    folder.mkdir()
    sources = [Image.open(file).convert("RGB") for file in sorted(PHOTOS.iterdir())]
    rng = np.random.default_rng(0)
    for number in range(n):
        image = sources[number % len(sources)]
        side = int(min(image.size) * rng.uniform(0.7, 1.0))
        left, top = (int(rng.integers(0, edge - side + 1)) for edge in image.size)
        crop = image.crop((left, top, left + side, top + side)).resize((500, 500), Image.Resampling.BICUBIC)
        crop.save(folder / f"{number}.jpg", quality=85)


def posters_archive() -> Path | None:
    """The posters of the shared data; None where ``CROSSMEDIA_TEST_DATA`` names none."""
    archive = Path(os.environ.get("CROSSMEDIA_TEST_DATA", "")) / "movielens_posters" / "posters_128x192_q80.tar"
    return archive if archive.exists() else None


def unpack_posters(archive: Path, folder: Path, n: int) -> int:
    """The first ``n`` posters as ``0.jpg`` and so on; return how many there were."""
    folder.mkdir()
    with tarfile.open(archive) as tar:
        members = [member for member in tar if member.isfile()][:n]
        for number, member in enumerate(members):
            data = tar.extractfile(member)
            assert data is not None
            (folder / f"{number}.jpg").write_bytes(data.read())
    return len(members)


def _next(files: int, n: int) -> Iterator[list[int]]:
    """The ids of each round, again from the start when there are no more."""
    for number in count():
        start = number * n % (files - n + 1)
        yield list(range(start, start + n))


def with_broken(folder: Path, target: Path) -> None:
    """The same photos, every hundredth of them broken: empty, no picture, or cut off."""
    target.mkdir()
    for file in folder.iterdir():
        number = int(file.stem)  # by number, and not by name, so that each round has as many
        os.link(file, target / file.name)
        if number % 100 == 0:
            data = (b"", b"no picture", file.read_bytes()[:2000])[number // 100 % 3]
            (target / file.name).unlink()
            (target / file.name).write_bytes(data)


def server(address: str, files: int, n: int) -> Work:
    """Our server, asked for images that it has not seen: one get; counts what became a vector."""
    from crossmedia.imgserver.client import ImageClient

    client, rounds = ImageClient(address, timeout_s=600), _next(files, n)

    def work() -> int:
        before = client.stats.computed
        assert client.get(next(rounds)).ok.mean() > 0.97
        return client.stats.computed - before

    return work


def precompute(folder: Path, files: int, n: int) -> Work:
    """Our offline job, into a store of its own; the first round, which warms up, also fits the head."""
    from crossmedia.imgserver.offline.plan import PrecomputeConfig
    from crossmedia.imgserver.offline.precompute import StoreEmbedder

    rounds = _next(files, n)
    embedder = StoreEmbedder(
        tempfile.mkdtemp(dir=folder.parent), PhotoSource(str(folder)), BACKBONE, Machine(threads=THREADS)
    )

    def work() -> int:
        return embedder.run(embedder.plan(PrecomputeConfig(dim=16, only=np.array(next(rounds))))).embedded

    return work


def best_loop(folder: Path, files: int, n: int, ready: bool) -> Work:
    """OpenVINO with a stream a core, fed by decode threads a little ahead; with ``ready``, pixels are there already."""
    import openvino

    from crossmedia.imgserver.vision.backbone import OnnxGraph
    from crossmedia.imgserver.vision.backbones import get_backbone
    from crossmedia.imgserver.vision.decode import ImageLimits, decode
    from crossmedia.imgserver.vision.engines import REQUESTS_A_STREAM, _converted

    backbone, rounds = get_backbone(BACKBONE), _next(files, n)
    core = openvino.Core()
    assert not isinstance(backbone.graph, OnnxGraph)
    model = _converted(core, backbone, backbone.graph, None)
    config = {"NUM_STREAMS": str(THREADS), "INFERENCE_NUM_THREADS": str(THREADS), "INFERENCE_PRECISION_HINT": "f32"}
    queue = openvino.AsyncInferQueue(core.compile_model(model, "CPU", config), REQUESTS_A_STREAM * THREADS)
    features: dict[int, Any] = {}
    queue.set_callback(lambda request, i: features.__setitem__(i, np.array(request.get_output_tensor(0).data)))
    pool = ThreadPoolExecutor(THREADS)

    def pixels(i: int) -> Any:
        return decode((folder / f"{i}.jpg").read_bytes(), backbone.preprocessing, ImageLimits())[None]

    kept = {i: pixels(i) for i in range(min(n, 64))} if ready else {}

    def work() -> int:
        features.clear()
        ids = next(rounds)
        ahead: deque[Future[Any]] = deque()
        todo = iter(ids)
        for i in ids:
            if ready:
                queue.start_async([kept[i % len(kept)]], i)
                continue
            ahead.extend(pool.submit(pixels, j) for j in islice(todo, BATCH - len(ahead)))
            queue.start_async([ahead.popleft().result()], i)
        queue.wait_all()
        return len(features)

    return work


def torch_eager(folder: Path, files: int, n: int) -> Work:
    """What a first script does: Pillow, torch in eager mode, batches of 32."""
    import torch

    from crossmedia.imgserver.vision.backbone import OnnxGraph
    from crossmedia.imgserver.vision.backbones import get_backbone
    from crossmedia.imgserver.vision.decode import ImageLimits, decode

    backbone, rounds = get_backbone(BACKBONE), _next(files, n)
    torch.set_num_threads(THREADS)
    assert not isinstance(backbone.graph, OnnxGraph)
    net = backbone.graph()

    def work() -> int:
        ids = next(rounds)
        with torch.inference_mode():
            for start in range(0, len(ids), BATCH):
                files = [folder / f"{i}.jpg" for i in ids[start : start + BATCH]]
                pixels = [decode(file.read_bytes(), backbone.preprocessing, ImageLimits()) for file in files]
                net(torch.from_numpy(np.stack(pixels))).numpy()
        return len(ids)

    return work


def start_store(folder: Path, place: Path, files: int) -> None:
    """A store with a head: 64 photos behind those that are measured."""
    ids = place / "ids.txt"
    ids.write_text("\n".join(str(i) for i in range(files, files + 64)))
    command = [
        sys.executable,
        "-m",
        "crossmedia.imgserver",
        "precompute",
        f"--store={place / 'store'}",
        f"--catalogue={folder}",
    ]
    subprocess.run([*command, f"--ids={ids}", "--dim=16"], check=True, capture_output=True)


def main() -> None:
    """Make photos, run every part in turn, print."""
    parser = argparse.ArgumentParser(description="Photos to vectors, beside the best loop around the same CNN.")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--photos", type=int, default=256, help="a round")
    parser.add_argument("--quick", action="store_true", help="3 rounds of 96 photos of 500 x 500")
    parser.add_argument("--parts", choices=("photos", "int8"), default="photos")
    parser.add_argument("--nets", nargs="+", default=[BACKBONE], help="of --parts int8")
    arguments = parser.parse_args()
    rounds, n = (3, 96) if arguments.quick else (arguments.rounds, arguments.photos)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if arguments.parts == "int8":
            make_photos(folder / "photos", 600)
            ratios, found = embed_narrow.measure(arguments.nets, folder / "photos", folder, rounds, n, THREADS)
        else:
            ratios, found = beside_the_best_loop(folder, rounds, n, quick=arguments.quick)
    finish("embed", ratios, rounds=rounds, photos=n, parts=found)


def beside_the_best_loop(folder: Path, rounds: int, n: int, *, quick: bool) -> tuple[dict[str, float], dict[str, Any]]:
    """Ratios and parts, of photos of 500 x 500 and of posters."""
    ratios: dict[str, float] = {}
    found: dict[str, Any] = {}
    files = (rounds + 1) * n
    sets = {"500x500": folder / "photos"}
    make_photos(sets["500x500"], files + 64)
    posters = posters_archive()
    if posters is not None and not quick:
        sets["posters"] = folder / "posters"
        assert unpack_posters(posters, sets["posters"], files + 64) == files + 64
    for name, photos in sets.items():
        place = folder / f"{name}-work"
        place.mkdir()
        start_store(photos, place, files)
        with ExitStack() as stack:
            with_broken(photos, place / "broken")
            copy_store(place / "store", place / "store-broken")
            address, pid = stack.enter_context(daemon(place / "store", f"--catalogue={photos}"))
            catalogue = f"--catalogue={place / 'broken'}"
            broken, broken_pid = stack.enter_context(daemon(place / "store-broken", catalogue))
            parts = {
                "OpenVINO on ready pixels": Part(best_loop, photos, files, n, True),
                "best loop": Part(best_loop, photos, files, n, False),
                "our server": Part(server, address, files, n, servers=[pid]),
                "our server, 1 % broken": Part(server, broken, files, n, servers=[broken_pid]),
                "our precompute": Part(precompute, photos, files, n),
                "torch eager": Part(torch_eager, photos, files, max(BATCH, n // 4)),
            }
            taken = run_rounds(parts, rounds)
            for part in parts.values():
                part.close()
        show(f"{name}: {n} photos a round", taken, "images/s")
        found[name] = {part: as_dict(taken[part]) for part in taken}
        tail = "" if name == "500x500" else f"_{name}"
        best = taken["best loop"].rate
        ratios["server_best_loop" + tail] = taken["our server"].rate / best
        ratios["server_broken" + tail] = taken["our server, 1 % broken"].rate / taken["our server"].rate
        ratios["precompute_best_loop" + tail] = taken["our precompute"].rate / best
        ratios["server_torch_eager" + tail] = taken["our server"].rate / taken["torch eager"].rate
        ratios["best_loop_ready" + tail] = best / taken["OpenVINO on ready pixels"].rate
    return ratios, found


if __name__ == "__main__":
    main()
