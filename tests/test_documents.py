"""The documentation: the site builds without a warning, and its pages say what the code has."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from conftest import ROOT
from test_house import ARROWS, all_commands

from crossmedia import __all__ as public_names
from crossmedia import errors
from crossmedia.cli import crossmedia
from crossmedia.trainer.models import MODELS, options_of

DOCS = ROOT / "docs"


def sections(document: Path, level: int) -> dict[str, str]:
    """Text below each heading of a level, by heading."""
    parts = re.split(rf"^{'#' * level} (.+)$", document.read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; a warning is an error (``strict`` in mkdocs.yml)."""
    out = tmp_path_factory.mktemp("documents") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", f"--site-dir={out}"]
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stderr, done.stderr
    return out


def test_the_site_needs_no_network(site: Path) -> None:
    for page in site.rglob("*.html"):
        tags = re.findall(r"<(?:script|img|link|iframe)\b[^>]*>", page.read_text())
        assert not [tag for tag in tags if re.search(r"""(?:src|href)=["']?(?:https?:)?//""", tag)], page


def test_the_site_has_every_command_decision_and_error(site: Path) -> None:
    commands = re.sub(r"<[^>]+>", "", (site / "commands.html").read_text())
    for path, command in all_commands(crossmedia):
        if path:
            assert f"Usage: crossmedia {' '.join(path)}" in commands
        for parameter in command.params:
            assert not path or all(option in commands for option in parameter.opts if option.startswith("--"))
    menu = (site / "index.html").read_text()
    for decision in DOCS.glob("adr/0*.md"):
        assert f"adr/{decision.stem}.html" in menu
    reference = (site / "python.html").read_text()
    for name in (
        *(
            "crossmedia.imgserver.client.ImageClient.get",
            "crossmedia.errors.Overloaded",
            "crossmedia.features.reading.samples.Samples",
        ),
        *(
            "crossmedia.trainer.scorer.Scorer.score",
            "crossmedia.trainer.metrics.gauc",
            "crossmedia.trainer.images.image_head.ImageHead",
        ),
    ):
        assert f'id="{name}"' in reference, name


def test_a_broken_link_fails_the_build(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    (copy / "docs").mkdir(parents=True)
    text = (ROOT / "mkdocs.yml").read_text()
    text = re.sub(r"^nav:.*", "nav:\n  - Start: start.md\n", text, flags=re.MULTILINE | re.DOTALL)
    text = text.replace("docs/hooks.py", str(DOCS / "hooks.py"))
    (copy / "mkdocs.yml").write_text(re.sub(r"plugins:\n.*?\n\n", "plugins: []\n\n", text, flags=re.DOTALL))
    (copy / "docs" / "start.md").write_text("[a page](no-such-page.md)\n")
    command = [sys.executable, "-m", "mkdocs", "build"]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "no-such-page.md" in done.stderr


def test_every_error_has_an_entry_in_troubleshooting() -> None:
    entries = sections(DOCS / "troubleshooting.md", 2)
    classes = {"CrossMediaError"} | {cls.__name__ for cls in errors.CrossMediaError.__subclasses__()}
    assert classes <= set(entries), f"no entry: {classes - set(entries)}"
    stale = {name for name in entries if re.fullmatch(r"[A-Z][a-z]+[A-Z]\w+|Overloaded", name)} - classes
    assert not stale, f"no such class: {stale}"
    for name in classes:
        cls = getattr(errors, name)
        assert "**Means.**" in entries[name]
        assert "**What to do.**" in entries[name]
        if name != "CrossMediaError":
            assert "**Likely causes.**" in entries[name]
            assert f"Exit code {cls.exit_code}" in entries[name], name
            if "grpc_code" in vars(cls):
                assert cls.grpc_code.name in entries[name], name


def test_every_model_has_an_entry_with_options_that_it_has() -> None:
    entries = sections(DOCS / "models.md", 3)
    assert [name.strip("`") for name in entries] == list(MODELS)
    for heading, text in entries.items():
        known = options_of(heading.strip("`"))
        own = text.split("\n## ")[0]
        for option in re.findall(r"--set ([a-z_0-9]+)=", own):
            assert option in known, f"{heading} has no option {option}"


def test_the_tree_in_architecture_is_the_tree() -> None:
    tree = sections(DOCS / "architecture.md", 2)["The tree"].split("```")[1]
    folders = {
        path.parent.relative_to(ROOT).as_posix()
        for package in ("imgserver", "features", "trainer")
        for path in (ROOT / package).rglob("__init__.py")
    }
    shown: set[str] = set()
    above: list[str] = []
    for line in tree.splitlines():
        if match := re.match(r"( *)([a-z_]+)/(?:\s|$)", line):
            depth = len(match[1]) // 2
            above = [*above[:depth], match[2]]
            shown.add("/".join(above))
    assert folders <= shown, f"not in the tree: {sorted(folders - shown)}"
    assert all((ROOT / folder).is_dir() for folder in shown), shown


def test_the_arrows_in_architecture_are_those_that_are_checked() -> None:
    rows = dict(re.findall(r"^\| `([a-z/]+)` \| (.+) \|$", (DOCS / "architecture.md").read_text(), flags=re.MULTILINE))
    named = {room: set(re.findall(r"`([a-z0-9_.]+)`", rows[room])) for room in ARROWS}
    assert named == ARROWS


TUTORIAL = ROOT / "examples" / "own_catalogue"


def commands_of(text: str) -> list[str]:
    return re.findall(r"^(?: {4})?((?:crossmedia|python|cp) .+)$", text, flags=re.MULTILINE)


def test_the_tutorials_page_has_the_commands_and_the_schema_of_its_script() -> None:
    page = (DOCS / "tutorial.md").read_text()
    assert commands_of(page) == commands_of((TUTORIAL / "tutorial.sh").read_text())
    (shown,) = re.findall(r"```toml\n(.*?)```", page, flags=re.DOTALL)
    assert tomllib.loads(shown) == tomllib.loads((TUTORIAL / "clicks.toml").read_text())


def test_the_learning_heads_module_is_the_one_that_the_guide_runs() -> None:
    block, *_ = re.findall(r"```python\n(.*?)```", (DOCS / "learning-head.md").read_text(), flags=re.DOTALL)
    guide = (DOCS / "guide.md").read_text()
    for line in filter(None, block.splitlines()):
        assert re.sub(r"\s+#.*", "", line) in guide


def test_the_page_on_python_names_what_is_public() -> None:
    page = (DOCS / "python.md").read_text()
    table = page[: page.index("```python")]
    named = re.findall(r"`([A-Z]\w+|[a-z]+_[a-z]+|align|fit|compare|evaluate|score|precompute)`", table)
    assert set(named) == set(public_names)
