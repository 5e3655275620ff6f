"""``crossmedia browse`` as a process, for tests: over a small store with two versions and hostile names."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from conftest import PHOTOS, copy_store, run_command

HOSTILE = "<img src=x onerror=document.title='taken'><script>document.title='taken'<\\script>\"'"


@contextmanager
def browsing(server: str, *options: str, env: Mapping[str, str] | None = None) -> Iterator[str]:
    """The address of a site, such as ``http://127.0.0.1:4711/``, for the time of a block."""
    command = [sys.executable, "-c", "from crossmedia.entry import main; main()", "browse", f"--server={server}"]
    process = subprocess.Popen(
        [*command, "--port=0", *options], stdout=subprocess.PIPE, text=True, env={**os.environ, **(env or {})}
    )
    with process:
        try:
            assert process.stdout is not None
            found = re.search(r"https?://\S+", process.stdout.readline())
            assert found is not None, "the site did not start"
            yield found[0]
        finally:
            process.terminate()
            process.wait(30)
    assert process.returncode == 0


def get(
    address: str, headers: Mapping[str, str] | None = None, data: bytes | None = None
) -> tuple[int, str, dict[str, str]]:
    """Status, text and headers of a page; redirections are followed."""
    request = urllib.request.Request(address, data, headers=dict(headers or {}))
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return reply.status, reply.read().decode("utf-8", "replace"), _headers(reply)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode("utf-8", "replace"), _headers(error)


def _headers(reply: Any) -> dict[str, str]:
    return {name.lower(): value for name, value in reply.headers.items()}


def hostile_store(graph_cache: Path, folder: Path) -> tuple[Path, Path, Path]:
    """A store of two versions over a manifest whose names are hostile, the manifest, and the folder of photos."""
    photos, store, manifest = folder / "photos", folder / "store", folder / "manifest.parquet"
    photos.mkdir()
    for place in range(24):
        name = f"{HOSTILE} {place}" if place < 4 else f"photo {place}"
        (photos / f"{name}.jpg").write_bytes((PHOTOS / f"{place:03}.jpg").read_bytes())
    (photos / "broken.jpg").write_bytes((PHOTOS / "030.jpg").read_bytes()[:300])
    store.mkdir()
    copy_store(graph_cache / "engine", store / "engine")
    run_command("imgserver", "manifest", str(photos), f"--out={manifest}")
    arguments = [f"--store={store}", f"--catalogue={manifest}", f"--photo-root={photos}"]
    run_command("imgserver", "precompute", *arguments, "--dim=4")
    run_command("imgserver", "precompute", *arguments, "--dim=8")
    (photos / "late.jpg").write_bytes((PHOTOS / "031.jpg").read_bytes())
    run_command("imgserver", "manifest", str(photos), f"--out={manifest}")
    return store, manifest, photos
