"""Checks of what a store holds."""

from __future__ import annotations

import time

import numpy as np

from crossmedia.concepts import has_concepts
from crossmedia.errors import CrossMediaError
from crossmedia.imgserver.head_files import load_card, load_head
from crossmedia.imgserver.operations.findings import Finding, NotExamined, Subject, ok, problem, warning
from crossmedia.imgserver.operations.mend import without_codebook
from crossmedia.imgserver.operations.verify import find_damage
from crossmedia.imgserver.serving.health import built_in_photo
from crossmedia.imgserver.similarity.index import SimilarityFiles
from crossmedia.imgserver.storage.environment import FORMAT
from crossmedia.imgserver.storage.records import NO_ROW
from crossmedia.imgserver.storage.store import row_folder
from crossmedia.imgserver.vision.backbone import TORCHVISION, OnnxGraph
from crossmedia.imgserver.vision.backbones import any_backbone, get_backbone
from crossmedia.imgserver.vision.decode import ImageLimits, decode
from crossmedia.imgserver.vision.engines import OpenVinoEngine, TorchEngine, engine_state
from crossmedia.words import counted

LEAST_COSINE = 0.99  # bfloat16 included
SAMPLE = 1000  # rows of each version that are compared with their checksum
AHEAD_S = 60.0
MAP_SHARE = 0.8
ENGINE_STATES = {
    "whole": "",
    "none": " (converted when first needed)",
    "damaged": " (what was converted is damaged: it is converted again when it is needed)",
}


def store_opens(subject: Subject) -> Finding:
    """Whether there is a store of the format that this release reads."""
    store = subject.opened
    if store is None:
        return problem(subject.trouble, "")
    spaces = len(store.index.spaces())
    held = counted(spaces, "version or backbone", "versions and backbones")
    return ok(f"{subject.folder}, format {FORMAT}, {held}, {counted(len(store.index), 'entry', 'entries')}")


def active_version(subject: Subject) -> Finding:
    """Whether there is something to serve to callers who name no version."""
    store = subject.store
    active = store.index.active
    if not active:
        return problem("no version is active, so nothing is served", store.filling_advice + ".")
    if store.index.space(active) is None:
        held = ", ".join(space.name for space in store.index.spaces("vector")) or "none"
        return problem(
            f"the active version {active} is not in the store", f"Activate one of: {held} ('imgserver versions')."
        )
    return ok(active)


def heads(subject: Subject) -> Finding:
    """Whether the head of every version is there, and is what its name says, and the card of one of concepts."""
    store = subject.store
    made = [space.name for space in store.index.spaces("vector") if not space.version.imported]
    for version in made:
        try:
            load_head(store, version)
            if has_concepts(version):
                load_card(store, version)
        except CrossMediaError as error:
            if version == store.index.active:
                return problem(f"{error} A server that runs has it in memory; one that starts refuses.", "")
            delete = f"'imgserver versions --store {store.folder} --delete {version}'"
            return warning(str(error), f"It is not active. Where nobody asks for it any more: {delete}.")
    return ok(f"hashes right, versions: {len(made)}")


def codebooks(subject: Subject) -> Finding:
    """Whether what decodes compressed versions is there, and is what its name says."""
    store = subject.store
    coded = [space for space in store.index.spaces("vector") if space.codebook]
    for space in coded:
        try:
            store.codebook(space)
        except CrossMediaError as error:
            return problem(str(error), f"Bring it back from a backup; or {without_codebook(store, space)}")
    return ok(f"whole, compressed versions: {len(coded)}")


def features(subject: Subject) -> Finding:
    """Whether the features behind every version are there, without which no more of its vectors can be made."""
    store = subject.store
    held = {space.name for space in store.index.spaces("feature")}
    for space in store.index.spaces("vector"):
        backbone = space.version.backbone
        if not space.version.imported and backbone not in held:
            return problem(
                f"{space.name} is there, and not the features of {backbone}",
                "A server refuses to start with it: restore a backup, or run precompute.",
            )
    return ok(f"of {counted(len(held), 'backbone')}")


def rows(subject: Subject) -> Finding:
    """Whether entries and rows are what was written: of the rows a sample of each version, or all with ``--full``."""
    store = subject.store
    compared, told = 0, []
    for space in store.index.spaces():
        found = find_damage(store, space, None if subject.full else SAMPLE)
        compared += found.compared
        if len(found.ids):
            shown = ", ".join(str(image_id) for image_id in found.ids[:10].tolist())
            of = f"{len(found.ids):,} of the {found.compared:,} rows of {space.name} that were compared"
            told.append(f"{of} do not match their checksum; images {shown}{', …' if len(found.ids) > 10 else ''}")
        if found.sealed or found.lost:
            told.append(f"{found.sealed:,} entries of {space.name} are damaged, {found.lost:,} are lost")
    if told:
        advice = f"Run 'imgserver mend --store {store.folder}': it takes them out, and says what makes them again."
        return problem("; ".join(told), f"{advice} Or restore a backup.")
    return ok(f"{compared:,} compared with their checksum{'' if subject.full else ' (a sample; --full takes all)'}")


def dropped_rows(subject: Subject) -> Finding:
    """How much disk the rows of replaced photos take."""
    store = subject.store
    spaces = store.index.spaces()
    named = sum(int((store.index.survey(space.name).entries["row"] != NO_ROW).sum()) for space in spaces)
    written = sum(store.rows(space).held(space.next_row) for space in spaces)
    orphans = set((store.folder / "rows").glob("*")) - {row_folder(store.folder, space) for space in spaces}
    if gone := [space for space in store.index.deleted() if row_folder(store.folder, space) in orphans]:
        return warning(
            f"the rows of {gone[0].name}, which was deleted, are still there",
            f"Run 'imgserver versions --delete {gone[0].name} --store {store.folder}' to its end.",
        )
    if orphans:
        return warning(
            f"{len(orphans)} folders of rows belong to nothing, such as {min(orphans)}",
            f"Stop the server and run 'imgserver compact --store {store.folder}'.",
        )
    if written and named < 0.7 * written:
        return warning(
            f"{written - named:,} of {written:,} rows belong to replaced photos",
            f"Stop the server and run 'imgserver compact --store {store.folder}'.",
        )
    return ok(f"{written - named:,} of {written:,} rows belong to replaced photos")


def weights(subject: Subject) -> Finding:
    """Whether the backbones whose features are stored are here, with the same weights and preprocessing."""
    store = subject.store
    found = []
    for space in store.index.spaces("feature"):
        if space.recipe.startswith(TORCHVISION) and not subject.full:
            found.append(f"{space.recipe} not looked at: it may have to be fetched (--full does)")
            continue
        advice = "Stored vectors are served; to compute more, bring the former weights back or run precompute."
        try:
            here = any_backbone(space.recipe, store.folder).version
        except CrossMediaError as error:
            return problem(f"the backbone {space.recipe} cannot be had: {error}", advice)
        if here != space.name:
            return problem(f"{space.recipe} is {here} here, and the store holds features of {space.name}", advice)
        state = engine_state(store.folder / "engine" / f"{here}.xml")
        found.append(here + ENGINE_STATES[state])
    return ok(", ".join(found) or "none needed: all vectors were imported")


def engine(subject: Subject) -> Finding:
    """Whether the converted backbone gives the features that its weights give; looked at with ``--full``."""
    store = subject.store
    if not subject.full:
        raise NotExamined
    compared = []
    for space in store.index.spaces("feature"):
        if engine_state(store.folder / "engine" / f"{space.name}.xml") != "whole":
            continue
        backbone = get_backbone(space.recipe, store.folder)
        if isinstance(backbone.graph, OnnxGraph) or backbone.version != space.name:
            continue
        pixels = decode(built_in_photo(), backbone.preprocessing, ImageLimits())[None].copy()
        here = OpenVinoEngine(backbone, store.folder / "engine").run(pixels)[0]
        there = TorchEngine(backbone).run(pixels)[0]
        cosine = float(here @ there / max(1e-9, np.linalg.norm(here) * np.linalg.norm(there)))
        if not cosine > LEAST_COSINE:
            return problem(
                f"the converted {space.name} gives other features than its weights (cosine {cosine:.4f})",
                f"Stop the server and remove {store.folder / 'engine'}; it is made again. What it made is wrong.",
            )
        compared.append(f"{space.name}: cosine {cosine:.5f} to its weights")
    return ok(", ".join(compared) or "none is converted")


def similarity(subject: Subject) -> Finding:
    """Whether the similarity index, if there is one, can be read and belongs to the active version."""
    store = subject.store
    try:
        opened = SimilarityFiles(store.folder).open()
    except CrossMediaError as error:
        return problem(str(error), "")
    if opened is None:
        return ok("none was made")
    if opened[0].version != store.index.active:
        return warning(f"it is of {opened[0].version}, which is not active", store.similarity_advice + ".")
    return ok(f"{opened[0].kind} of {counted(opened[0].images, 'vector')}")


def index_map(subject: Subject) -> Finding:
    """Whether the index has room in LMDB's map."""
    taken, size = subject.store.index.map_use()
    found = f"{taken / 1e6:,.1f} MB of LMDB's map of {size / 1e9:,.0f} GB are taken"
    if taken > MAP_SHARE * size:
        return problem(found, "Compact the store, or delete versions: a full map takes no more images.")
    return ok(found)


def clock(subject: Subject) -> Finding:
    """Whether the clock is behind the store's own files: then it was set back, and stamps of photos mislead."""
    ahead = (subject.store.folder / "index" / "data.mdb").stat().st_mtime - time.time()
    if ahead > AHEAD_S:
        return warning(f"the index was written {ahead:,.0f} s in the future", "Set the clock (timedatectl, chrony).")
    return ok(time.strftime("%Y-%m-%d %H:%M:%S %z"))
