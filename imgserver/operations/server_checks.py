"""Checks of a server that runs: is it there, does work go through it, does it serve what the store holds?"""

from __future__ import annotations

from crossmedia.errors import CrossMediaError
from crossmedia.imgserver.client import GrpcTransport, ImageClient
from crossmedia.imgserver.client.health import health_of
from crossmedia.imgserver.operations.findings import Finding, NotExamined, Subject, ok, problem, warning
from crossmedia.service.running import DAEMON_FILE, running_daemon

TIMEOUT_S = 5.0


def daemon(subject: Subject) -> Finding:
    """Whether a server runs for this store on this machine."""
    found = running_daemon(subject.folder) if subject.folder.is_dir() else None
    if found is not None:
        return ok(f"process {found.pid} serves this store at {found.address}")
    if (subject.folder / DAEMON_FILE).exists():
        return warning(
            f"no server runs, and {subject.folder / DAEMON_FILE} is there: the last one was killed",
            f"The store lost nothing. Start it again: 'imgserver serve --store {subject.folder}'.",
        )
    return ok("none serves this store here")


def health(subject: Subject) -> Finding:
    """Whether work really goes through the server: the probe that load balancers ask for."""
    address = _address(subject)
    try:
        state = health_of(address, TIMEOUT_S)
    except CrossMediaError as error:
        return problem(str(error), "Check the address, the network between, and whether it takes TLS.")
    if state != "SERVING":
        return problem(f"{address} is {state}", "Its log says why its probe fails, or it is loading or draining.")
    return ok(f"{address} is SERVING")


def serves_the_store(subject: Subject) -> Finding:
    """Whether the server answers GetInfo, with the version and generation of the store."""
    address = _address(subject)
    try:
        with ImageClient(GrpcTransport(address), timeout_s=TIMEOUT_S) as client:
            told = client.info()
    except CrossMediaError as error:
        return problem(str(error), "")
    found = f"release {told.server_version}, {told.contents.images_stored:,} images of {told.version or 'no version'}"
    if subject.opened is None or not _is_ours(subject, address):
        return ok(found)
    index = subject.store.index
    if (told.version, told.generation) != (index.active, index.generation):
        return problem(
            f"it serves {told.version or 'nothing'}, generation {told.generation}; the store's is {index.active}, "
            f"generation {index.generation}",
            "A server follows within a second. If this stays, its log says why it cannot follow the store.",
        )
    if told.counters.rows_damaged:
        return warning(
            f"it met {told.counters.rows_damaged:,} damaged rows and entries of the store since it started",
            f"Run 'imgserver doctor --full --store {subject.folder}', which finds them all.",
        )
    return ok(f"{found}, as in the store")


def _address(subject: Subject) -> str:
    if subject.server:
        return subject.server
    found = running_daemon(subject.folder) if subject.folder.is_dir() else None
    if found is None:
        raise NotExamined
    return found.address


def _is_ours(subject: Subject, address: str) -> bool:
    """Whether that server is the one of this store; another one may serve another store."""
    found = running_daemon(subject.folder)
    return found is not None and found.address == address
