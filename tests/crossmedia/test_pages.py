"""What all pages share, in a browser: tables that sort, and a policy by which nothing else runs or is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
from in_browser import in_browser

from crossmedia.pages import POLICY, SCRIPT, STYLE, page

TABLE = """<table class="sortable"><thead><tr><th>name</th><th>gain</th></tr></thead><tbody>
<tr><td>b</td><td>+0.5</td></tr><tr><td>a 10</td><td>–</td></tr><tr><td>a 9</td><td>×1,200.5</td></tr>
<tr><td>c</td><td>-3 ± 1</td></tr></tbody></table>"""
# A name that nobody escaped: scripts of three kinds, and four requests.
TAKEN = "document.title = 'taken'"
HOSTILE = f"""<script>{TAKEN}</script><img src="data:," alt="x" onerror="{TAKEN}">
<a id="go" href="javascript:{TAKEN}">x</a><img src="http://127.0.0.1:9/x.png" alt="x"><link rel="stylesheet" href="http://127.0.0.1:9/x.css">
<iframe src="http://127.0.0.1:9/"></iframe><form action="http://127.0.0.1:9/"><input></form>"""


def test_a_title_is_text() -> None:
    html = page("</title><script>", "<p>x</p>")
    assert "<title>&lt;/title&gt;&lt;script&gt;</title>" in html
    assert html.count("<script>") == 1
    assert STYLE in html
    assert f'content="{POLICY}"' in html
    assert f"<script>{SCRIPT}</script>" in html
    assert "http" not in STYLE + SCRIPT  # nothing is loaded


@pytest.mark.browser
@pytest.mark.slow
def test_a_heading_that_is_chosen_sorts_its_column(tmp_path: Path) -> None:
    """Numbers by their size, the largest first; words as people count; what is not there is last, both ways."""
    script = """const heads = [...page.querySelectorAll("th")],
      order = () => [...page.querySelectorAll("td:first-child")].map(cell => cell.textContent); const found = [];
      for (const place of [1, 1, 0, 0]) { heads[place].querySelector("button").click();
        found.push([heads.map(head => head.getAttribute("aria-sort")), order()]); } return found;"""
    down, up, by_name, back = in_browser(page("t", TABLE), tmp_path, 600, script)
    assert down == [[None, "descending"], ["a 9", "b", "c", "a 10"]]
    assert up == [[None, "ascending"], ["c", "b", "a 9", "a 10"]]
    assert by_name == [["ascending", None], ["a 9", "a 10", "b", "c"]]
    assert back == [["descending", None], ["c", "b", "a 10", "a 9"]]


@pytest.mark.browser
@pytest.mark.slow
def test_what_was_not_escaped_still_runs_and_loads_nothing(tmp_path: Path) -> None:
    script = """page.getElementById("go").click();
      const sorts = page.querySelectorAll("th button").length;
      const loaded = view.performance.getEntriesByType("resource").filter(one => one.name.startsWith("http")
        && one.responseStatus).length;
      return [page.title, document.title, sorts, loaded];"""
    assert in_browser(page("safe", HOSTILE + TABLE), tmp_path, 600, script) == ["safe", "", 2, 0]
    without = page("safe", HOSTILE + TABLE).replace("Content-Security-Policy", "x-none")
    assert in_browser(without, tmp_path, 600, script)[0] == "taken"  # such a name does run where nobody forbids it
