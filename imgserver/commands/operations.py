"""Operate a store and its server: examine, back up, restore, compact."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from crossmedia.config import Command, json_option
from crossmedia.errors import NoStore
from crossmedia.imgserver.commands.options import server_option, store_option
from crossmedia.imgserver.places import holds_store
from crossmedia.output import show
from crossmedia.progress import Bar
from crossmedia.words import counted

COLOURS = {"ok": "green", "warning": "yellow", "problem": "red"}


@click.command(cls=Command, one_place=False, example="--store store --full")
@store_option
@server_option
@click.option(
    "--full",
    is_flag=True,
    help="Compare every row with its checksum, not a sample, and look at weights that may have to be fetched.",
)
@json_option
def doctor(store: Path, server: str | None, full: bool, as_json: bool) -> None:
    """Examine a store, this machine and the server, and say what to do; the exit code is 1 when there is a problem.

    Nothing is changed. A running server is asked at its own address, or at --server.
    """
    from crossmedia.imgserver.operations.doctor import examine

    if not holds_store(store):
        raise NoStore(store)
    found = examine(store, server, full=full)
    problems = [name for name, finding in found.items() if finding.level == "problem"]
    if as_json:
        click.echo(json.dumps({"problems": problems, "checks": {name: asdict(f) for name, f in found.items()}}))
    else:
        for name, finding in found.items():
            advice = f" -> {finding.advice}" if finding.advice else ""
            level = click.style(f"{finding.level:7}", fg=COLOURS[finding.level])
            click.echo(f"{level}  {name:14}  {finding.found}{advice}")
    if problems:
        click.get_current_context().exit(1)


@click.command(cls=Command, example="--store store")
@store_option
@json_option
def mend(store: Path, as_json: bool) -> None:
    """Take what is damaged out of a store, and say which commands make it again. A server may go on meanwhile.

    Every row is compared with its checksum, and every entry of the index with its seal. An index whose pages are
    damaged is written anew from those that are whole; then no server may have the store open.
    """
    from crossmedia.imgserver.operations.mend import mend as work

    report = work(store)
    lines = ["The index was written anew from the pages that are whole."] if report.rebuilt else []
    lines += [f"{name}: {count:,} entries were damaged or lost" for name, count in report.entries.items()]
    for name, ids in report.rows.items():
        shown = ", ".join(map(str, ids[:20])) + (", …" if len(ids) > 20 else "")
        lines.append(f"{name}: {len(ids):,} rows were damaged and are taken out: {shown}")
    lines += [f"{file} was damaged and is removed" for file in report.removed]
    show(report, as_json, *lines, *(report.advice or ["Nothing is damaged."]))


@click.command(cls=Command, example="--store store --to backups/monday")
@store_option
@click.option(
    "--to",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder to make; while it is not complete it has .part behind its name.",
)
@json_option
def backup(store: Path, to: Path, as_json: bool) -> None:
    """Copy a store while it is served and written; every row is compared with its checksum on the way."""
    from crossmedia.imgserver.operations.backup import backup as work

    with Bar("copying", of_bytes=True) as bar:
        made = work(store, to, bar)
    found = {"folder": str(to), "bytes": made.total_bytes, **asdict(made)}
    entries, files = counted(made.images, "entry", "entries"), counted(len(made.files), "file")
    said = f"{to}: {entries} in {files}, {made.total_bytes / 1e6:,.1f} MB"
    show(found, as_json, said, f"active version: {made.active}")


@click.command(cls=Command, example="backups/monday --store store")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@store_option
@json_option
def restore(folder: Path, store: Path, as_json: bool) -> None:
    """Make a store of the backup in FOLDER; every file is compared with its SHA-256. Nothing is overwritten."""
    from crossmedia.imgserver.operations.backup import restore as work

    with Bar("copying", of_bytes=True) as bar:
        made = work(folder, store, bar)
    found = {"store": str(store), "bytes": made.total_bytes, **asdict(made)}
    said = f"{store}: {counted(made.images, 'entry', 'entries')}, {made.total_bytes / 1e6:,.1f} MB, checked"
    show(found, as_json, said, f"active version: {made.active}")


@click.command(cls=Command, example="--store store")
@store_option
@json_option
def compact(store: Path, as_json: bool) -> None:
    """Give back the disk of rows that were replaced or deleted, and of the index. No server may have the store open.

    What is kept is written beside what is there, and takes its place in one step: a kill loses nothing.
    """
    from crossmedia.imgserver.operations.compact import compact as work

    with Bar("writing", of_bytes=True) as bar:
        report = work(store, bar)
    rows = f"{counted(report.rows, 'row')} kept, {report.rows_dropped:,} dropped"
    show(report, as_json, rows, f"{report.bytes_before / 1e6:,.1f} MB before, {report.bytes_after / 1e6:,.1f} MB now")
