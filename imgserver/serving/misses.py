"""Vectors that are not there yet: decode in processes, one CNN batch of whatever waits, one writer.

    admitted ──> decode threads ──> CNN ──> writer: rows and index in one transaction, table ──> callers wake

An image is computed once, however many callers wait for it; a failure is that image's alone; an image that nobody
waits for any more is dropped before it costs anything. There is no linger: an idle CNN takes a single image at once,
and the writer commits what came while it wrote. Lookups go before photos that are brought, and neither waits for a
decoder of the other; within each, callers take turns.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from crossmedia.errors import CrossMediaError, StoreError
from crossmedia.imgserver.serving.jobs import Job, Model, Serving, features_of, for_callers
from crossmedia.imgserver.storage.catalogue import Catalogue
from crossmedia.imgserver.storage.records import SOURCE_FIELDS, Ids, Rows, Space, content_hash
from crossmedia.imgserver.storage.stores import ServedStore, Stored
from crossmedia.imgserver.storage.versions import VECTOR_DTYPE
from crossmedia.imgserver.vision.decoders import Decoders
from crossmedia.imgserver.vision.embedding import embed
from crossmedia.imgserver.vision.engines import MAX_BATCH
from crossmedia.imgserver.vision.photos import Photo, Source, photo_from_bytes, read_photo, rows_of
from crossmedia.logs import Sparingly
from crossmedia.service.admission import Admission, Cost
from crossmedia.service.callers import Caller
from crossmedia.service.fair import FairQueue
from crossmedia.status import NOT_KEPT, NOT_YET, Status

log = logging.getLogger(__name__)

CLOSE_S = 2.0  # for what is being decoded when the service ends
PROBE_ID = -1  # of no image
MAX_DECODED = 4 * MAX_BATCH  # pixels held in memory; decoding is faster than any CNN on a CPU
MAX_UNWRITTEN = 4  # batches between CNN and writer


@dataclass
class MissCounters:
    """Totals since the start: images whose vector was made, through the CNN, batches of it, and failures by status."""

    computed: int = 0
    cnn_passes: int = 0
    cnn_batches: int = 0
    failed: Counter[int] = field(default_factory=Counter)


class _Lanes:
    """A queue of jobs with two lanes: what a lookup waits for, and what may take its time."""

    def __init__(self) -> None:
        self._lanes: tuple[FairQueue[Job], FairQueue[Job]] = FairQueue(), FairQueue()

    def __len__(self) -> int:
        return len(self._lanes[0]) + len(self._lanes[1])

    def append(self, job: Job) -> None:
        if job.probe:  # what is in front of it says nothing about whether work goes through
            self.push(job)
        for caller in job.callers:
            self._lanes[job.brought].append(caller.name, job)

    def push(self, job: Job) -> None:
        self._lanes[job.brought].push(job.name, job)

    def join(self, job: Job, name: str) -> None:
        """One more caller waits for a job, if it is still here."""
        if job in self._lanes[job.brought]:
            self._lanes[job.brought].append(name, job)

    def lane(self, brought: bool) -> FairQueue[Job]:
        """What waits in one of them."""
        return self._lanes[brought]

    def pop(self) -> Job:
        return (self._lanes[0] or self._lanes[1]).pop()


class Misses:
    """Computes the vectors of images that the table does not know, and of images that callers bring.

    Args:
        store: where results go.
        catalogue: where photos come from; None when callers bring all of them.
        decoders: of the catalogue's photos.
        callers_decoders: of photos that callers bring.
        admission: counts the images under way.
        on_batch: told the size of each CNN batch.
    """

    def __init__(
        self,
        store: ServedStore,
        catalogue: Catalogue | None,
        decoders: Decoders,
        callers_decoders: Decoders,
        admission: Admission,
        on_batch: Callable[[int], None] = lambda size: None,
    ):
        self.catalogue = catalogue
        self._store, self._admission = store, admission
        self._decoders, self._callers_decoders = decoders, callers_decoders
        self._on_batch = on_batch
        self.counters = MissCounters()
        self.last_batch_at = time.monotonic()
        self._jobs: dict[tuple[str, int, int], Job] = {}
        self._to_decode, self._decoded = _Lanes(), _Lanes()
        self._decoding = 0
        self._unwritten: deque[list[Job]] = deque()
        self._closed = False
        self._sparingly = Sparingly()
        self._changed = threading.Condition()
        readers = max(catalogue.readers if catalogue else 0, decoders.workers)
        work: list[tuple[str, Callable[[], None]]] = []
        work += [(f"decode-{i}", partial(self._decode_all, False)) for i in range(readers)]
        work += [(f"decode-brought-{i}", partial(self._decode_all, True)) for i in range(callers_decoders.workers)]
        work += [("cnn", self._embed_all), ("writer", self._write_all)]
        self._threads = [threading.Thread(target=target, name=name, daemon=True) for name, target in work]
        for thread in self._threads:
            thread.start()

    @property
    def alive(self) -> bool:
        """Whether every thread that an image passes through is there."""
        return not self._closed and all(thread.is_alive() for thread in self._threads)

    @property
    def waiting(self) -> int:
        """Images under way."""
        return len(self._jobs)

    def close(self) -> None:
        """Finish what is under way, then stop; what is not decoded within ``CLOSE_S`` fails."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        until = time.monotonic() + CLOSE_S
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        for decoders in (self._decoders, self._callers_decoders):
            decoders.close()
        for thread in self._threads:
            thread.join()

    def resolve(
        self, serving: Serving, model: Model, ids: Ids, caller: Caller
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.uint8]]:
        """Have the vectors of ``ids`` computed and stored; wait until they are, or as long as the caller does.

        Args:
            serving: the version that is wanted.
            model: what makes its vectors.
            ids: shape (n,), each once; the table has no vector of them.
            caller: who waits.

        Returns:
            vectors as they are stored, shape (n, D), zeros where there is none; status, shape (n,). They come from the
            computation and not from the store, which may have lost them again.

        Raises:
            Overloaded: more images would be under way than are admitted; nothing was begun.
        """
        space = serving.table.space
        vectors = np.zeros((len(ids), space.dim), dtype=space.value_dtype)
        status = np.full(len(ids), Status.NOT_FOUND, dtype=np.uint8)
        rows = np.flatnonzero(~self._nowhere(space, model, ids))
        if missing := len(ids) - len(rows):
            with self._changed:
                self.counters.failed[Status.NOT_FOUND] += missing
        # Somebody else's computation may have ended since the caller looked; each job asks the store before it works.
        with self._changed:
            jobs = self._admit([Job(image_id, serving, model) for image_id in ids[rows].tolist()], caller)
        status[rows] = self._wait(jobs, caller)
        for row, job in zip(rows.tolist(), jobs, strict=True):
            if status[row] == Status.OK:
                vectors[row] = job.vector
        return vectors, status

    def _nowhere(self, space: Space, model: Model, ids: Ids) -> npt.NDArray[np.bool_]:
        """Which ids, shape (n,), have neither photo, row nor feature: they need no place among the images that have."""
        nowhere = np.zeros(len(ids), dtype=np.bool_)
        if self.catalogue is None:
            return nowhere
        lacking = np.flatnonzero(self.catalogue.lacks(ids))
        try:
            for kept in (space, model.features) if len(lacking) else ():
                lacking = lacking[~self._store.knows(kept, ids[lacking])]
        except StoreError:  # each image fails by itself
            return nowhere
        nowhere[lacking] = True
        return nowhere

    def put(
        self, serving: Serving, model: Model, photos: list[tuple[int, bytes]], caller: Caller
    ) -> npt.NDArray[np.uint8]:
        """Have photos that a caller brings embedded and stored; one that is stored with the same bytes costs nothing.

        Args:
            serving: the version that is wanted.
            model: what makes its vectors.
            photos: ids, each once, and bytes.
            caller: who waits.

        Returns:
            status, shape (n,): OK means that the table now holds the vector of these bytes. Of a photo that is
            refused nothing is stored where there is a vector: it stays.

        Raises:
            Overloaded: more images would be under way than are admitted; nothing was begun.
        """
        wanted = [Job(image_id, serving, model, data, content_hash(data)) for image_id, data in photos]
        with self._changed:
            jobs = self._admit(wanted, caller)
        return self._wait(jobs, caller)

    def probe(self, serving: Serving, model: Model, photo: bytes, deadline: float) -> int:
        """The status of a photo that goes the way of lookups, through decoders, CNN and writer, and is not stored."""
        caller = Caller(deadline)
        job = Job(PROBE_ID, serving, model, photo, content_hash(photo), probe=True, callers=[caller])
        caller.expect(1)
        with self._changed:
            self._jobs[job.key] = job
            self._to_decode.append(job)
            self._changed.notify_all()
        caller.wait()
        caller.leave()
        return job.status or Status.TIMED_OUT

    def _admit(self, wanted: list[Job], caller: Caller) -> list[Job]:
        """The jobs to wait for, those under way already among them; called under the lock."""
        new = [job for job in wanted if job.key not in self._jobs]
        self._admission.take(Cost(images=len(new)), caller.name)
        for job in new:
            job.name = caller.name
            self._jobs[job.key] = job
        jobs = [self._jobs[job.key] for job in wanted]
        caller.expect(len(jobs))
        for job in jobs:
            job.callers.append(caller)
            self._to_decode.join(job, caller.name)
        for job in new:
            self._to_decode.append(job)
        if new:
            self._changed.notify_all()
        return jobs

    def _wait(self, jobs: list[Job], caller: Caller) -> npt.NDArray[np.uint8]:
        try:
            caller.wait()
        finally:
            caller.leave()
        return np.array([job.status or Status.TIMED_OUT for job in jobs], dtype=np.uint8)

    def _decode_all(self, brought: bool) -> None:
        """A decode thread, of photos that callers bring or of the catalogue's."""
        waiting = self._to_decode.lane(brought)
        while True:
            with self._changed:
                while not waiting or len(self._decoded) + self._decoding >= MAX_DECODED:
                    if self._closed and not waiting:
                        return
                    self._changed.wait()
                job = waiting.pop()
                self._decoding += 1
            status: int = Status.FAILED
            try:
                status = self._decode(job) if job.wanted else Status.TIMED_OUT
            except Exception as error:
                _say(error, "failed before the CNN", [job])
            with self._changed:
                self._decoding -= 1
                if status == NOT_YET:
                    self._decoded.append(job)
                self._changed.notify_all()
            if status != NOT_YET:
                self._finish([job], status)

    def _decode(self, job: Job) -> int:
        """Bring a stored feature or pixels to one image, or say its final status."""
        known = self._store.fetch(job.serving.table.space, job.image_id)
        if known is not None and _is_of(known, job):
            job.vector = known.row
            return Status.OK
        feature = self._store.fetch(job.model.features, job.image_id)
        if feature is not None and _is_of(feature, job):
            job.feature = feature.row
            job.photo = Photo(job.image_id, Status.OK, Source(*feature.entry[SOURCE_FIELDS].item()))
            return NOT_YET
        if known is not None and (failure := self._same_failure(job, known)) != NOT_YET:
            return failure
        job.photo = self._photo(job)
        if job.photo.status == Status.FAILED and self._sparingly.allows("photo"):
            with for_callers([job]):
                log.warning("image %d %s", job.image_id, job.photo.reason)
        return job.photo.status if job.photo.status in NOT_KEPT else NOT_YET

    def _same_failure(self, job: Job, known: Stored) -> int:
        """The stored failure of an image whose photo has not been touched since: it need not be read again."""
        if job.data is not None or self.catalogue is None or known.entry["status"] == Status.OK:
            return NOT_YET
        same = self.catalogue.unchanged(np.array([job.image_id]), known.entry)
        return int(known.entry["status"]) if same[0] else NOT_YET

    def _photo(self, job: Job) -> Photo:
        preprocessing = job.model.embedder.backbone.preprocessing
        if job.data is not None:
            source = Source(len(job.data), 0, job.content)
            decoders = self._callers_decoders if job.brought else self._decoders
            return photo_from_bytes(job.image_id, job.data, source, preprocessing, decoders)
        if self.catalogue is None:
            return Photo(job.image_id, Status.FAILED, Source(), reason="is damaged in the store")
        return read_photo(self.catalogue, job.image_id, preprocessing, self._decoders)

    def _embed_all(self) -> None:
        """The CNN's thread."""
        while True:
            with self._changed:
                while not self._decoded or len(self._unwritten) >= MAX_UNWRITTEN:
                    if self._closed and not (self._to_decode or self._decoding or self._decoded):
                        return
                    self._changed.wait()
                batch, late = self._next_batch()
                self._changed.notify_all()
            self._finish(late, Status.TIMED_OUT)
            if not batch:
                continue
            try:
                self._embed(batch)
            except Exception as error:
                _say(error, "the CNN failed", batch)
                self._finish(batch, Status.FAILED)
                continue
            with self._changed:
                self._unwritten.append(batch)
                self._changed.notify_all()

    def _next_batch(self) -> tuple[list[Job], list[Job]]:
        """What waits, of one version, and an image once; and what nobody waits for any more."""
        batch: dict[int, Job] = {}
        late, others = [], []
        serving = None
        while self._decoded and len(batch) < MAX_BATCH:
            job = self._decoded.pop()
            serving = serving or job.serving
            if job.serving is not serving or job.image_id in batch:
                others.append(job)
            elif job.wanted:
                batch[job.image_id] = job
                job.started_ns = time.perf_counter_ns()
            else:
                late.append(job)
        for job in reversed(others):  # callers of two versions take turns by batches, not by images
            self._decoded.push(job)
        return list(batch.values()), late

    def _embed(self, batch: list[Job]) -> None:
        model = batch[0].model
        seen = [job for job in batch if job.photo is not None and job.photo.pixels is not None]
        if not seen:
            return
        photos, features = embed(model.embedder.engine, [job.photo for job in seen if job.photo], model.features.dim)
        for job, photo in zip(seen, photos, strict=True):
            job.photo = photo
        for job, feature in zip([job for job in seen if job.photo and job.photo.ok], features, strict=True):
            job.feature = feature
        self.last_batch_at = time.monotonic()
        if asked := sum(not job.probe for job in seen):
            self.counters.cnn_passes += asked
            self.counters.cnn_batches += 1
            self._on_batch(asked)
            self._admission.note_rate(asked)

    def _write_all(self) -> None:
        """The writer's thread: one transaction for all that the CNN made while the last one was written."""
        while True:
            with self._changed:
                while not self._unwritten:
                    if self._closed and not self._threads[-2].is_alive():
                        return
                    self._changed.wait(0.1 if self._closed else None)
                batch = self._unwritten.popleft()
                ids = {job.image_id for job in batch}
                while self._unwritten and self._unwritten[0][0].serving is batch[0].serving:
                    if any(job.image_id in ids for job in self._unwritten[0]):
                        break  # two contents of one image are stored one after the other
                    ids.update(job.image_id for job in self._unwritten[0])
                    batch += self._unwritten.popleft()
                self._changed.notify_all()
            try:
                self._write(batch)
            except Exception as error:
                _say(error, "writing failed", batch)
                self._finish(batch, Status.FAILED)

    def _write(self, jobs: list[Job]) -> None:
        asked = [job for job in jobs if not job.probe]
        lost = self._keep(asked) if asked else set()
        for job in jobs:
            if job.status != NOT_YET:  # it failed on the way
                continue
            status = job.photo.status if job.photo else Status.OK
            # Who brings a photo is told that it is not kept; who looks one up has got the vector all the same.
            brought_in_vain = job.brought and job.image_id in lost
            self._finish([job], Status.TIMED_OUT if brought_in_vain else status)

    def _keep(self, jobs: list[Job]) -> set[int]:
        """Head, rows and index, table: in this order. Returns ids of photos that others replaced meanwhile."""
        serving, model = jobs[0].serving, jobs[0].model
        failed = [job for job in jobs if job.photo is not None and not job.photo.ok and not self._has_better(job)]
        done = [job for job in jobs if job.feature is not None]
        seen = [job for job in done if job.photo is not None and job.photo.pixels is not None]
        features = vectors = features_of(done)
        if model.head is not None:
            vectors = model.head.apply_numpy(features) if features is not None else None
            if vectors is not None and not (fits := _fits(vectors)).all():
                wrong = [job for job, fine in zip(done, fits.tolist(), strict=True) if not fine]
                log.error(
                    "the head of %s is not fit for %d images, such as %d: float16 cannot hold their vectors",
                    serving.version, len(wrong), wrong[0].image_id,
                )  # fmt: skip
                self._finish(wrong, Status.FAILED)
                rest = [job for job in jobs if job.status == NOT_YET]
                return self._keep(rest) if rest else set()
        parts = []
        if seen + failed:
            parts.append(_rows(model.features, seen + failed, features_of(seen)))
        if model.head is not None and done + failed:
            parts.append(_rows(serving.table.space, done + failed, vectors))
        if vectors is not None:
            # As they are stored, as whoever asks next will get them.
            for job, vector in zip(done, self._store.as_stored(serving.table.space, vectors), strict=True):
                job.vector = vector
        lost = set(self._store.put_all(parts).tolist()) if parts else set()
        serving.table.refresh()
        self.counters.computed += len(done)
        return lost

    def _has_better(self, job: Job) -> bool:
        """Whether a photo that a caller brings and that is refused would replace a row or a feature of a good one."""
        spaces = (job.serving.table.space, job.model.features) if job.brought else ()
        stored = [self._store.fetch(space, job.image_id) for space in spaces]
        return any(known is not None and known.entry["status"] == Status.OK for known in stored)

    def _finish(self, jobs: list[Job], status: int) -> None:
        """Give the jobs their status and wake who waits."""
        if not jobs:
            return
        asked = sum(not job.probe for job in jobs)
        with self._changed:
            for job in jobs:
                self._jobs.pop(job.key, None)
            if status != Status.OK:
                self.counters.failed[status] += asked
        for name, count in Counter(job.name for job in jobs if not job.probe).items():
            self._admission.give_back(Cost(images=count), name)
        for job in jobs:
            job.status, job.photo, job.feature = status, None, None
            for caller in job.callers:
                caller.one_ended(job.started_ns)


def _is_of(known: Stored, job: Job) -> bool:
    """Whether what is stored is a row made from the bytes of this job."""
    return bool(known.entry["status"] == Status.OK and (job.data is None or known.entry["content"] == job.content))


def _rows(space: Space, jobs: list[Job], values: npt.NDArray[Any] | None) -> Rows:
    return rows_of(space, [job.photo for job in jobs if job.photo is not None], values)


def _say(error: Exception, what: str, jobs: list[Job]) -> None:
    trace = None if isinstance(error, CrossMediaError) else error
    with for_callers(jobs):
        log.error("%s (images: %d, the first is %d): %s", what, len(jobs), jobs[0].image_id, error, exc_info=trace)


def _fits(vectors: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Which of some vectors, shape (n, D), are finite as they are stored, shape (n,)."""
    with np.errstate(over="ignore"):
        fits: npt.NDArray[np.bool_] = np.isfinite(vectors.astype(VECTOR_DTYPE)).all(axis=1)
    return fits
