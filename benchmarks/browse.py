"""``crossmedia browse`` in a real browser: first paint of each tab, and random jumps in a large catalogue.

    python -m benchmarks.browse --catalogue posters --store store
    python -m benchmarks.browse --catalogue posters --images 1000000 --distinct 1000

With --images a store of so many images is made: a real one, with vectors that are imported, over a catalogue whose ids
refer to --distinct photos of --catalogue, over and over.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from playwright.sync_api import Page, sync_playwright

DIM = 64
TABS = ("", "neighbours", "neighbours?id=1", "duplicates", "map", "versions", "live")
SOON = "new Promise(done => {{ const look = () => {} ? done() : requestAnimationFrame(look); look(); }})"
DRAWN = "document.images.length > 0 && [...document.images].every(one => one.complete && one.naturalWidth > 0)"
PAINTED = "performance.getEntriesByName('first-contentful-paint')"
DAEMON_S = 300


def command(*arguments: str) -> str:
    """Run a command of ours; its output."""
    run = [sys.executable, "-c", "from crossmedia.entry import main; main()", *arguments]
    return subprocess.run(run, check=True, capture_output=True, text=True, timeout=DAEMON_S).stdout


def large(folder: Path, photos: Path, images: int, distinct: int) -> tuple[Path, Path]:
    """A store with vectors of ``images`` images, and a manifest in which ``distinct`` photos stand again and again."""
    store, manifest, vectors = folder / "store", folder / "manifest.parquet", folder / "vectors"
    files = sorted(photos.glob("*.jpg"))[:distinct]
    ids = np.arange(images, dtype=np.int64)
    uris = pa.array([str(file) for file in files]).take(pa.array(ids % len(files)))
    names = pa.array([f"photo {i}" for i in range(images)])
    pq.write_table(pa.table({"image_id": ids, "key": names, "uri": uris}), manifest)
    vectors.mkdir()
    rng = np.random.default_rng(0)
    for start in range(0, images, 100_000):
        block = ids[start : start + 100_000]
        values = rng.normal(size=(len(block), DIM)).astype(np.float16)
        column = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), DIM)
        pq.write_table(pa.table({"image_id": block, "vector": column}), vectors / f"{start:09}.parquet")
    command("imgserver", "import", str(vectors), "--store", str(store), "--name", "made")
    return store, manifest


@contextmanager
def served(store: Path, catalogue: Path, roots: Path) -> Iterator[str]:
    """A daemon, and the site over it; its address."""
    options = ["--store", str(store), "--catalogue", str(catalogue), "--photo-root", str(roots)]
    told = json.loads(command("imgserver", "serve", *options, "--port=0", "--background", "--json"))
    run = [sys.executable, "-c", "from crossmedia.entry import main; main()", "browse", "--server", told["address"]]
    site = subprocess.Popen([*run, "--port=0"], stdout=subprocess.PIPE, text=True)
    try:
        assert site.stdout is not None
        yield site.stdout.readline().split()[1]
    finally:
        site.terminate()
        site.wait()
        command("imgserver", "stop", "--store", str(store))


def first_paints(page: Page, address: str, rounds: int) -> dict[str, float]:
    """Milliseconds until something of each tab is seen: the median of some loads, the first of them cold."""
    found = {}
    for tab in TABS:
        times = []
        for _ in range(rounds):
            page.goto(address + tab, wait_until="commit")
            page.evaluate(SOON.format(f"{PAINTED}.length > 0"))
            times.append(float(page.evaluate(f"{PAINTED}[0].startTime")))
        found[tab or "catalogue"] = float(np.median(times))
        found[f"{tab or 'catalogue'}, first"] = times[0]
    return found


def jumps(page: Page, address: str, count: int, seed: int = 0) -> list[float]:
    """Seconds of jumps to pages that the seed draws, until all of their photos are decoded."""
    page.goto(address)
    last = int(page.inner_text(".pager form").split("of")[-1].split()[0].replace(",", ""))
    rng, taken = np.random.default_rng(seed), []
    for number in rng.integers(1, last + 1, count).tolist():
        started = time.perf_counter()
        page.fill("#page", str(number))
        with page.expect_navigation(wait_until="commit"):
            page.press("#page", "Enter")
        page.evaluate(SOON.format(f"({DRAWN})"))
        taken.append(time.perf_counter() - started)
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--catalogue", type=Path, help="folder of photos")
    parser.add_argument("--store", type=Path, help="store over them; it is copied")
    parser.add_argument("--images", type=int, default=0, help="make a store of so many images")
    parser.add_argument("--distinct", type=int, default=1000, help="photos that they refer to")
    parser.add_argument("--jumps", type=int, default=50, help="pages that are jumped to")
    parser.add_argument("--rounds", type=int, default=3, help="loads of each tab")
    parser.add_argument("--site", help="address of a site that runs: nothing is made or started")
    parser.add_argument("--work", type=Path, help="folder for the store that is made; kept, and used again")
    options = parser.parse_args()
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        raise SystemExit("No Chromium is installed.")
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.work or Path(temporary)
        folder.mkdir(exist_ok=True)
        if options.images and not options.site and not (folder / "store").exists():
            large(folder, options.catalogue, options.images, options.distinct)
        store, catalogue = folder / "store", folder / "manifest.parquet"
        if not options.images and not options.site:
            store, catalogue = Path(temporary) / "store", options.catalogue
            subprocess.run(["cp", "-a", str(options.store), str(store)], check=True)
        site = nullcontext(options.site) if options.site else served(store, catalogue, options.catalogue)
        with site as address, sync_playwright() as playwright:
            chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox", "--disable-gpu"])
            page = chromium.new_page(viewport={"width": 1280, "height": 900})
            requests: list[str] = []
            page.on("request", lambda request: requests.append(request.url))
            paints = first_paints(page, address, options.rounds)
            taken = jumps(page, address, options.jumps)
            chromium.close()
    elsewhere = {url for url in requests if not url.startswith((address, "data:"))}
    found: dict[str, Any] = {
        "images": options.images or "those of the store",
        "first_paint_ms": {name: round(value) for name, value in paints.items()},
        "jump_s": {f"p{share}": round(float(np.quantile(taken, share / 100)), 3) for share in (50, 95, 100)},
        "requests": len(requests),
        "requests_elsewhere": sorted(elsewhere),
    }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
