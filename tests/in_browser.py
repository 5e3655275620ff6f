"""A page as a browser shows it: unchanged, with its own policy, in a frame as wide as a screen or as a phone."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from base64 import b64decode
from html import escape
from pathlib import Path
from typing import Any

import pytest

OPTIONS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")
SMALLEST = """
  const text = [...page.querySelectorAll("p, td, th, dd, dt, li, b, span, figcaption, svg text")]
    .filter(one => one.getClientRects().length).map(one => { const svg = one.closest("svg"),
    size = parseFloat(view.getComputedStyle(one).fontSize);
    return svg ? size * svg.getBoundingClientRect().width / svg.viewBox.baseVal.width : size; });"""
MEASURE = (
    SMALLEST
    + """
  return {taken: page.title === "taken" || document.title === "taken", scripts: page.scripts.length,
  drawn: [...page.images].filter(one => one.naturalWidth > 0).length, images: page.images.length,
  unsaid: [...page.images].filter(one => !one.alt).length,
  charts: [...page.querySelectorAll("svg")].filter(one => one.getBoundingClientRect().width > 200).length,
  tooWide: page.documentElement.scrollWidth > view.innerWidth, smallest: Math.min(...text),
  dots: [...page.querySelectorAll(".scale .dot")].filter(one => one.getBoundingClientRect().width > 5).length,
  requests: view.performance.getEntriesByType("resource").filter(one => !one.name.startsWith("data:")).length}"""
)


def in_browser(page: str, folder: Path, width: int, script: str = MEASURE) -> Any:
    """What a script finds in a page.

    Args:
        page: HTML, which is shown as it is.
        folder: for the browser's files.
        width: of the frame, in pixels.
        script: body of a function of ``page``, the document, and ``view``, its window; what it returns is returned.
    """
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium is installed")
    frame = f'<iframe style="border: 0" width="{width}" height="900" srcdoc="{escape(page)}"></iframe>'
    look = f"""<script>addEventListener("load", () => {{ const frame = document.querySelector("iframe");
      const found = ((page, view) => {{ {script} }})(frame.contentDocument, frame.contentWindow);
      document.title = "found " + btoa(JSON.stringify(found).replace(/[^\\x20-\\x7e]/g, "?")); }})</script>"""
    (folder / "frame.html").write_text(f"<!doctype html><body>{frame}{look}</body>", encoding="utf-8")
    own = (f"--user-data-dir={folder / 'profile'}", f"--window-size={width + 40},1000", "--dump-dom")
    done = subprocess.run(
        [browser, *OPTIONS, *own, f"file://{folder / 'frame.html'}"], capture_output=True, text=True, timeout=300
    )
    match = re.search(r"<title>found ([A-Za-z0-9+/=]*)</title>", done.stdout)
    assert match is not None, done.stderr[-2000:]
    return json.loads(b64decode(match[1]))
