"""What mkdocs cannot do by itself: pages made from the code and from files that live outside of docs/.

- ``commands.md`` gets the ``--help`` of every command, asked of the command tree, so it cannot be out of date.
- Documents of the repository's root and of its folders (``PAGES``) become pages.
- A link to any other file of the repository leads to a page that shows the file.
- The decisions are listed in the navigation by their file names.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = "commands.md"
# page of the site -> file of the repository
PAGES = {
    "index.md": "README.md",
    "benchmarks.md": "benchmarks/README.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "deployment.md": "deploy/README.md",
    "security.md": "SECURITY.md",
}
SOURCE = "source"  # below it are pages that show a file
LANGUAGES = {".py": "python", ".toml": "toml", ".yaml": "yaml", ".yml": "yaml", ".json": "json", ".sh": "bash"}
LINK = re.compile(r"\]\(((?!https?:|mailto:|#)[^)#\s]+)(#[^)\s]*)?\)")
HELP_WIDTH = 96  # columns that fit the page


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the decisions where the navigation says ``adr/``."""
    decisions = ["adr/README.md", *(f"adr/{path.name}" for path in sorted((ROOT / "docs/adr").glob("0*.md")))]

    def complete(target: Any) -> Any:
        if isinstance(target, list):
            return [{title: complete(below) for title, below in entry.items()} for entry in target]
        return decisions if target == "adr/" else target

    config.nav = complete(config.nav or [])
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made: documents outside of docs/, and the files that pages link to."""
    for name, document in PAGES.items():
        files.append(File.generated(config, name, content=(ROOT / document).read_text()))
    linked = set()
    for page in files.documentation_pages():
        for link in LINK.finditer(page.content_string):
            target = _repository_path(page.src_uri, link[1])
            if _site_path(target).startswith(SOURCE + "/") and (ROOT / target).exists():
                linked.add(target)
    for target in sorted(linked):
        files.append(File.generated(config, _site_path(target), content=_shown(ROOT / target, target)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links between files of the repository into links between pages."""
    here = page.file.src_uri
    if here.startswith(SOURCE + "/"):
        page.meta["search"] = {"exclude": True}
        return markdown

    def turned(link: re.Match[str]) -> str:
        target = _site_path(_repository_path(here, link[1]))
        return f"]({posixpath.relpath(target, posixpath.dirname(here) or '.')}{link[2] or ''})"

    turned_markdown = LINK.sub(turned, markdown)
    return turned_markdown + command_reference() if here == COMMANDS else turned_markdown


def _repository_path(page: str, link: str) -> str:
    """The file of the repository that a link on a page means."""
    origin = PAGES.get(page, f"docs/{page}")
    return posixpath.normpath(posixpath.join(posixpath.dirname(origin), link))


def _site_path(target: str) -> str:
    """Where a file of the repository is on the site."""
    for page, file in PAGES.items():
        if file == target:
            return page
    return target.removeprefix("docs/") if target.startswith("docs/") else f"{SOURCE}/{target}.md"


def _shown(path: Path, name: str) -> str:
    if path.is_dir():
        listed = "\n".join(sorted(found.name + "/" * found.is_dir() for found in path.iterdir()))
        return f"# {name}\n\n```text\n{listed}\n```\n"
    if path.stat().st_size > 100_000:
        return f"# {name}\n\nThe file has {path.stat().st_size:,} bytes: see it in the repository.\n"
    return f"# {name}\n\n````{LANGUAGES.get(path.suffix, 'text')}\n{path.read_text()}\n````\n"


def command_reference() -> str:
    """What ``--help`` prints, of every command, below headings."""
    from crossmedia.cli import crossmedia

    parts = [""]
    with click.Context(crossmedia, info_name="crossmedia", auto_envvar_prefix="CROSSMEDIA", show_default=True) as top:
        for name in crossmedia.list_commands(top):
            parts += _helps(crossmedia.get_command(top, name), name, top, 2)
    return "\n".join(parts)


def _helps(command: click.Command | None, name: str, above: click.Context, level: int) -> list[str]:
    assert command is not None
    with click.Context(command, above, name, terminal_width=HELP_WIDTH) as context:
        parts = [f"{'#' * level} {name}\n\n```text\n{command.get_help(context)}\n```\n"]
        if isinstance(command, click.Group):
            for child in command.list_commands(context):
                parts += _helps(command.get_command(context, child), child, context, level + 1)
        return parts
