"""Each tab in a real browser: what it asks for, whether names run script, keys, widths, photos that are drawn."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from conftest import DaemonProcess
from site_process import HOSTILE, browsing, hostile_store

pytestmark = [pytest.mark.browser, pytest.mark.slow]
TABS = ("", "neighbours", "neighbours?id=1", "duplicates?cosine=0.3", "map", "versions", "live")
SMALLEST = """Math.min(...[...document.querySelectorAll("p, td, th, a, label, figcaption, h1, h2, h3, li")]
    .filter(one => one.offsetParent && one.innerText).map(one => parseFloat(getComputedStyle(one).fontSize)))"""
NO_ALT = "[...document.images].filter(one => !one.alt).length"
NO_NAME = (
    """[...document.querySelectorAll("input:not([type=hidden]), select")].filter(one => !one.labels.length).length"""
)


@dataclass
class Watched:
    """A page of a browser, and what it asked for and said."""

    page: Any
    requests: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))


def soon(page: Any, condition: str) -> None:
    """Wait until something holds; Playwright's own way is script as text, which the policy of the pages refuses."""
    page.evaluate(
        f"new Promise(done => {{ const look = () => ({condition}) ? done() : setTimeout(look, 50); look(); }})"
    )


@pytest.fixture(scope="module")
def site(graph_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    store, manifest, photos = hostile_store(graph_cache, tmp_path_factory.mktemp("hostile"))
    process = DaemonProcess(store, manifest, f"--photo-root={photos}")
    with browsing(process.address) as address:
        yield address
    process.stop()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium is installed")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@pytest.fixture
def watched(chromium: Any) -> Iterator[Watched]:
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(60_000)
    yield Watched(context.new_page())
    context.close()


@pytest.mark.parametrize("width", [1280, 420])
def test_every_tab_is_drawn_and_asks_the_site_alone(watched: Watched, site: str, width: int) -> None:
    page = watched.page
    page.set_viewport_size({"width": width, "height": 900})
    for tab in TABS:
        page.goto(site + tab)
        soon(page, "[...document.images].every(one => one.complete)")
        assert page.evaluate("document.title") != "taken"
        assert page.evaluate("[...document.images].every(one => one.naturalWidth > 0 || one.loading == 'lazy')"), tab
        assert page.evaluate("document.documentElement.scrollWidth") <= width, tab
        assert page.evaluate(SMALLEST) >= 12, tab
        assert (page.evaluate(NO_ALT), page.evaluate(NO_NAME)) == (0, 0), tab
        assert page.locator("nav.tabs [aria-current=page]").count() == 1
    assert len(watched.requests) > 50
    assert {url for url in watched.requests if not url.startswith((site, "data:"))} == set()
    assert watched.said == []


def test_names_of_others_are_shown_and_run_nothing(watched: Watched, site: str) -> None:
    page = watched.page
    for tab in ("", "neighbours", "?find=onerror", "neighbours?id=1"):
        page.goto(site + tab)
        page.wait_for_load_state("networkidle")
        assert HOSTILE in page.inner_text("main"), tab
        assert page.evaluate("document.title") != "taken"
        assert page.evaluate("document.querySelectorAll('main script').length") == 0
        assert page.evaluate("document.querySelectorAll('[onerror]').length") == 0
    page.goto(f"{site}?find=%3Cscript%3Edocument.title%3D%27taken%27%3C%2Fscript%3E")
    assert page.evaluate("document.title") != "taken"
    page.goto(f"{site}map")
    page.locator("svg a").first.hover(force=True)
    assert page.evaluate("document.title") != "taken"


def test_injected_script_and_style_are_refused(watched: Watched, site: str) -> None:
    """Were a name ever put into a page unescaped, the policy would keep it from doing anything."""
    page = watched.page
    page.goto(site)
    page.evaluate(
        """() => { const one = document.createElement('div');
        one.innerHTML = `<img src="data:," onerror="document.title = 'taken'">`; document.body.append(one);
        const two = document.createElement('script'); two.textContent = "document.title = 'taken'";
        document.body.append(two); }"""
    )
    page.wait_for_timeout(300)
    assert page.evaluate("document.title") != "taken"
    assert any("Content Security Policy" in line for line in watched.said)
    assert page.evaluate("fetch('http://127.0.0.1:9/').then(() => 'sent', () => 'refused')") == "refused"


def test_all_of_it_is_reached_by_keys(watched: Watched, site: str) -> None:
    page = watched.page
    page.goto(site)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "find"
    page.keyboard.type("photo 2")
    page.keyboard.press("Enter")
    page.wait_for_url("**find=photo+2**")
    page.locator("a.photo").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/neighbours?id=**")
    assert "neighbours are the same by both versions" in page.inner_text("main")
    page.goto(f"{site}neighbours")
    page.keyboard.press("ArrowRight")
    page.wait_for_url("**seed=1")


def test_the_map_is_drawn_by_itself_and_shows_photos(watched: Watched, site: str) -> None:
    page = watched.page
    page.goto(f"{site}map")
    soon(page, "document.body.innerText.includes('By t-SNE')")
    assert page.locator("circle").count() == 24
    page.locator("svg a").nth(5).hover(force=True)
    soon(page, "document.querySelector('#preview img')?.naturalWidth > 0")


def test_the_last_minutes_go_on(watched: Watched, site: str) -> None:
    page = watched.page
    page.goto(f"{site}live")
    soon(page, "document.querySelectorAll('#now .chart').length == 5")
    assert watched.said == []
