"""One part of a catalogue, embedded into files: for machines that share a folder and no store.

Part i of n holds the virtual shards whose number leaves i - 1 when divided by n, so every image is in one part
whoever embeds it, and a part is a whole number of the files' folders.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from crossmedia.errors import BadInput
from crossmedia.imgserver.head import Head
from crossmedia.imgserver.offline.decoding import batched, decoded, in_order
from crossmedia.imgserver.offline.image_ids import wanted_ids
from crossmedia.imgserver.offline.own_nets import with_file_kept
from crossmedia.imgserver.offline.shard_files import FEATURES, VECTORS, ShardFiles
from crossmedia.imgserver.shards import SHARDS, shards_of
from crossmedia.imgserver.storage.records import Ids, Rows, Space, places_in, spread
from crossmedia.imgserver.storage.versions import VECTOR_DTYPE
from crossmedia.imgserver.vision.backbones import get_backbone
from crossmedia.imgserver.vision.decoders import Decoders
from crossmedia.imgserver.vision.embedding import embedded
from crossmedia.imgserver.vision.machine import Machine
from crossmedia.imgserver.vision.make_engine import make_engine
from crossmedia.imgserver.vision.photo_source import PhotoSource
from crossmedia.imgserver.vision.photos import Photo
from crossmedia.status import is_ok

BLOCK_PHOTOS = 8192  # what a kill costs at most


@dataclass
class PartResult:
    """What a run did.

    Attributes:
        part: ``i/n``.
        found: photos of the catalogue that belong to the part.
        skipped: photos that were embedded already and have not changed.
        embedded: photos that went through the CNN.
        rejected: reason by image id, of photos that cannot be embedded.
        seconds: of the run.
    """

    part: str
    found: int = 0
    skipped: int = 0
    embedded: int = 0
    rejected: dict[int, str] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True)
class JobPart:
    """Part ``number`` of ``of``, from 1 on."""

    number: int = 1
    of: int = 1

    @classmethod
    def parse(cls, text: str) -> JobPart:
        """The part that ``i/n`` means.

        Raises:
            BadInput: it is none, or n is above the number of virtual shards.
        """
        first, _, of = text.partition("/")
        if not (text.isascii() and first.isdigit() and of.isdigit() and 1 <= int(first) <= int(of) <= SHARDS):
            raise BadInput(f"--part {text!r} must be i/n with i from 1 to n, such as 3/64, and n at most {SHARDS}.")
        return cls(int(first), int(of))

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    @property
    def virtual(self) -> range:
        """Its virtual shards."""
        return range(self.number - 1, SHARDS, self.of)


@dataclass(frozen=True)
class Job:
    """What every process that embeds a catalogue must know; the same on all machines.

    Attributes:
        folder: of everything that is embedded, shared by all.
        photos: how they are read.
        backbone: name of the CNN; one in ``#int8`` with its file, which is copied into ``folder``.
        only: image ids, shape (n,); None is the whole catalogue.
    """

    folder: Path
    photos: PhotoSource
    backbone: str = "efficientnet_lite0"
    only: Ids | None = None


class OpenJob:
    """A job with its photos, its backbone, and the files that they are embedded into.

    Raises:
        BadInput: there is no such catalogue or backbone.
        NothingEmbedded: the catalogue has no photo.
    """

    def __init__(self, job: Job):
        self.job = job
        self.photos = job.photos.open()
        self.backbone = get_backbone(with_file_kept(job.folder, job.backbone), job.folder)
        self.files = ShardFiles(job.folder, FEATURES, self.backbone.version)

    def of_part(self, part: JobPart) -> Ids:
        """Ids of a part."""
        ids = wanted_ids(self.photos, self.job.only)
        mine: Ids = ids[shards_of(ids) % part.of == part.number - 1]
        return mine

    def left(self, ids: Ids, part: JobPart) -> Ids:
        """Ids that no file has, or whose photo changed, by virtual shard, in the best order to read photos."""
        known = self.files.known(part.virtual)
        place, done = places_in(known["image_id"], ids)
        done[done] = self.photos.unchanged(ids[done], known[place[done]])
        todo = self.photos.reading_order(ids[~done])
        by_shard: Ids = todo[np.argsort(shards_of(todo), kind="stable")]
        return by_shard


class FileEmbedder:
    """A CNN that writes files; ``with`` ends the processes that decode for it.

    Args:
        of: the job.
        machine: what is taken of this machine.
    """

    def __init__(self, of: OpenJob, machine: Machine = Machine()):  # noqa: B008  frozen
        self._of, self._machine = of, machine
        self._engine = make_engine(of.backbone, of.job.folder / "engine", machine)
        self._decoders = Decoders(of.job.photos.limits, machine.decoders)

    def __enter__(self) -> FileEmbedder:
        return self

    def __exit__(self, *_: object) -> None:
        self._decoders.close()

    def embed(self, ids: Ids, progress: Callable[[int], None] = lambda done: None) -> tuple[int, dict[int, str]]:
        """Write the features of some images; return how many, and why others have none."""
        parts: list[Rows] = []
        rejected: dict[int, str] = {}
        engine, backbone = self._engine, self._of.backbone
        photos = decoded(self._of.photos, backbone, self._decoders, ids, self._machine.commit)

        def embed(batch: list[Photo]) -> tuple[int, Rows, dict[int, str]]:
            return len(batch), *embedded(engine, batch, backbone.space)

        with ThreadPoolExecutor(engine.in_flight, thread_name_prefix="cnn") as pool:
            for done, rows, reasons in in_order(pool, embed, batched(photos, engine.batch), engine.in_flight):
                parts.append(rows)
                rejected.update(reasons)
                progress(done)
        every = Rows.joined(parts)
        of_row = shards_of(every.ids)
        for number in np.unique(of_row).tolist():
            self._of.files.write(self._of.files.new_place(number), every[of_row == number])
        return int(is_ok(every.status).sum()), rejected


def embed_part(
    of: OpenJob,
    ids: Ids,
    part: JobPart,
    machine: Machine = Machine(),  # noqa: B008  frozen
    progress: Callable[[int], None] = lambda done: None,
) -> PartResult:
    """Embed what is left of a part; run it again after a kill, and it goes on with the block that it was at.

    Args:
        of: the job.
        ids: ``of.of_part(part)``.
        part: which one it is.
        machine: what is taken of this machine.
        progress: told how many photos were just dealt with.

    Raises:
        BadInput: a file of an earlier run is damaged.
        StoreError: the folder cannot be written.
    """
    started = time.monotonic()
    todo = of.left(ids, part)
    result = PartResult(str(part), len(ids), len(ids) - len(todo))
    progress(result.skipped)
    if len(todo):
        with FileEmbedder(of, machine) as embedder:
            for start in range(0, len(todo), BLOCK_PHOTOS):
                photos, rejected = embedder.embed(todo[start : start + BLOCK_PHOTOS], progress)
                result.embedded += photos
                result.rejected |= rejected
    result.seconds = time.monotonic() - started
    return result


def apply_head_to_files(folder: Path, head: Head, backbone_version: str, part: JobPart) -> tuple[str, int]:
    """Vectors of a head beside the features of a part, file by file; return their version and how many were made.

    A file of vectors has the name of its file of features, so what is there is not made again.

    Args:
        folder: of everything that is embedded.
        head: such as ``trainer fit --head learn`` saved.
        backbone_version: of the features.
        part: which one it is.

    Raises:
        BadInput: the head is for other features, or a file is damaged.
    """
    if head.backbone and head.backbone != backbone_version:
        raise BadInput(f"The head takes features of {head.backbone}; those of these files are of {backbone_version}.")
    version = head.version(backbone_version)
    features, vectors = ShardFiles(folder, FEATURES, backbone_version), ShardFiles(folder, VECTORS, version)
    space = Space(0, version, "vector", head.spec.dim, VECTOR_DTYPE)
    done, made = set(vectors.places(part.virtual)), 0
    for place in features.places(part.virtual):
        if place in done:
            continue
        rows = features.read(place)
        if rows.space.dim != head.spec.widths[0]:
            raise BadInput(
                f"The head takes {head.spec.widths[0]} numbers; features of {backbone_version} have {rows.space.dim}."
            )
        ok = is_ok(rows.status)
        vectors.write(place, replace(rows, space=space, values=spread(head.apply_numpy(rows.values[ok]), ok)))
        made += int(ok.sum())
    return version, made
