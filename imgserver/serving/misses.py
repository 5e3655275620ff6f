"""Vectors that are not there yet: decode in threads, one CNN batch of whatever waits as soon as the model is free.

An image is computed once, however many callers wait for it; a failure is that image's alone; work that nobody waits
for any more is dropped before it costs anything. There is no linger: an idle model takes a single image at once.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from crossmedia.v1 import image_server_pb2 as pb

from imgserver.errors import CrossMediaError, Overloaded
from imgserver.head import Head
from imgserver.storage.catalog import Catalog
from imgserver.storage.index import SOURCE, Entries, Ids, Space, content_hash
from imgserver.storage.store import Store
from imgserver.storage.table import Table
from imgserver.vision.decode import ImageLimits
from imgserver.vision.embedder import Embedder
from imgserver.vision.engines import MAX_BATCH
from imgserver.vision.photos import Photo, Source, photo_from_bytes, read_photo, sources_of

log = logging.getLogger(__name__)

DECODE_THREADS = 2
OK = pb.VECTOR_STATUS_OK


@dataclass(frozen=True)
class Serving:
    """What is served at one moment; replaced as a whole, so no reply mixes two versions."""

    version: str
    table: Table
    model: Model | None


@dataclass(frozen=True)
class Model:
    """What makes more vectors of a version; imported vectors have none."""

    embedder: Embedder
    head: Head
    features: Space


@dataclass
class _Job:
    """One image under way, for all who wait for it."""

    image_id: int
    serving: Serving
    model: Model
    deadline: float
    data: bytes | None = None  # brought by a caller; else the catalogue's
    content: int = 0  # hash of ``data``
    done: Future[int] = field(default_factory=Future)
    photo: Photo | None = None
    feature: npt.NDArray[Any] | None = None

    @property
    def key(self) -> tuple[str, int, int]:
        """What one computation is enough for."""
        return self.serving.version, self.image_id, self.content


@dataclass
class MissCounters:
    """Totals since the start: images whose vector was made, images through the CNN, and batches of it."""

    computed: int = 0
    cnn_passes: int = 0
    cnn_batches: int = 0


class Misses:
    """Computes the vectors of images that the table does not know, and of images that callers bring.

    Args:
        store: where results go.
        catalog: where photos come from; None when callers bring all of them.
        limits: of a photo.
        max_pending: most images under way at once.
    """

    def __init__(self, store: Store, catalog: Catalog | None, limits: ImageLimits, max_pending: int):
        self.catalog = catalog
        self._store, self._limits, self._max_pending = store, limits, max_pending
        self.counters = MissCounters()
        self.last_batch_at = time.monotonic()
        self._lock = threading.Lock()
        self._jobs: dict[tuple[str, int, int], _Job] = {}
        self._ready: deque[_Job] = deque()
        self._wake = threading.Condition(self._lock)
        self._closed = False
        readers = catalog.readers if catalog else DECODE_THREADS
        self._decoders = ThreadPoolExecutor(readers, thread_name_prefix="decode")
        self._batcher = threading.Thread(target=self._run, name="cnn", daemon=True)
        self._batcher.start()

    @property
    def alive(self) -> bool:
        """Whether the thread that runs the CNN is there."""
        return self._batcher.is_alive() and not self._closed

    def close(self) -> None:
        """Finish what is under way, then stop."""
        self._decoders.shutdown(wait=True)
        with self._wake:
            self._closed = True
            self._wake.notify_all()
        self._batcher.join()

    def resolve(self, serving: Serving, model: Model, ids: Ids, deadline: float) -> npt.NDArray[np.uint8]:
        """Have the vectors of ``ids`` computed and stored; wait until they are, or until ``deadline``.

        Args:
            serving: the version that is wanted.
            model: what makes its vectors.
            ids: shape (n,), each once, none of them known to the table.
            deadline: of the caller, on the monotonic clock.

        Returns:
            status, shape (n,): OK means that the table now knows the image.

        Raises:
            Overloaded: more images would be under way than are admitted; nothing was begun.
        """
        with self._lock:
            # Somebody else's computation may have ended since the caller looked: jobs leave under this lock, and
            # only after the table has them, so an id that is in neither is new.
            known = serving.table.get(ids, OK)[2]
            wanted = [_Job(image_id, serving, model, deadline) for image_id in ids[~known].tolist()]
            jobs, fresh = self._admit(wanted)
        outcome = np.full(len(ids), OK, dtype=np.uint8)
        outcome[~known] = self._wait(jobs, fresh, deadline)
        return outcome

    def put(
        self, serving: Serving, model: Model, photos: list[tuple[int, bytes]], deadline: float
    ) -> npt.NDArray[np.uint8]:
        """Have photos that a caller brings embedded and stored; one that is stored with the same bytes costs nothing.

        Args:
            serving: the version that is wanted.
            model: what makes its vectors.
            photos: ids, each once, and bytes.
            deadline: of the caller, on the monotonic clock.

        Returns:
            status, shape (n,): OK means that the table now holds the vector of these bytes.

        Raises:
            Overloaded: more images would be under way than are admitted; nothing was begun.
        """
        wanted = [_Job(image_id, serving, model, deadline, data, content_hash(data)) for image_id, data in photos]
        with self._lock:
            jobs, fresh = self._admit(wanted)
        return self._wait(jobs, fresh, deadline)

    def _admit(self, wanted: list[_Job]) -> tuple[list[_Job], list[_Job]]:
        """The jobs to wait for, those under way already among them, and the new ones; called under the lock."""
        new = sum(job.key not in self._jobs for job in wanted)
        if len(self._jobs) + new > self._max_pending:
            rate = 100.0  # images a second that even a slow machine computes
            raise Overloaded(
                f"{len(self._jobs)} images wait for the CNN and {new} more would exceed the limit of "
                f"{self._max_pending}. Try again later, or run 'imgserver precompute' first.",
                retry_after_s=min(5.0, max(0.1, len(self._jobs) / rate)),
            )
        jobs = [self._jobs.setdefault(job.key, job) for job in wanted]
        for job, asked in zip(jobs, wanted, strict=True):
            job.deadline = max(job.deadline, asked.deadline)
        return jobs, [job for job, asked in zip(jobs, wanted, strict=True) if job is asked]

    def _wait(self, jobs: list[_Job], fresh: list[_Job], deadline: float) -> npt.NDArray[np.uint8]:
        for job in fresh:
            self._decoders.submit(self._decode, job)
        # A little earlier than the caller's deadline, so that the answer still reaches it.
        wait([job.done for job in jobs], timeout=max(0.0, deadline - time.monotonic() - 0.05))
        found = [job.done.result() if job.done.done() else pb.VECTOR_STATUS_TIMED_OUT for job in jobs]
        return np.array(found, dtype=np.uint8)

    def _decode(self, job: _Job) -> None:
        """In a decode thread: a stored feature or pixels for one image, or its failure."""
        try:
            if time.monotonic() > job.deadline:
                self._finish(job, pb.VECTOR_STATUS_TIMED_OUT)
                return
            if job.data is not None and self._stored(job, job.serving.table.space) is not None:
                self._finish(job, OK)
                return
            entry = self._stored(job, job.model.features)
            if entry is not None:
                job.feature = self._store.read(job.model.features, entry)[0]
                job.photo = Photo(job.image_id, OK, Source(*(int(entry[name][0]) for name in SOURCE.names or ())))
            else:
                job.photo = self._photo(job)
        except Exception as error:
            if isinstance(error, CrossMediaError):
                log.error("image %d failed before the CNN: %s", job.image_id, error)
            else:
                log.exception("image %d failed before the CNN", job.image_id)
            self._finish(job, pb.VECTOR_STATUS_FAILED)
            return
        if job.photo.status in (pb.VECTOR_STATUS_NOT_FOUND, pb.VECTOR_STATUS_FAILED):
            self._finish(job, job.photo.status)  # may be different next time: nothing to remember
            return
        with self._wake:
            self._ready.append(job)
            self._wake.notify()

    def _stored(self, job: _Job, space: Space) -> Entries | None:
        """The image's entry, shape (1,), if it holds a row made from the bytes of this job."""
        entries, found = self._store.index.get(space.name, np.array([job.image_id]))
        right = found[0] and entries["status"][0] == OK and (job.data is None or entries["content"][0] == job.content)
        return entries if right else None

    def _photo(self, job: _Job) -> Photo:
        preprocessing = job.model.embedder.backbone.preprocessing
        if job.data is not None:
            source = Source(len(job.data), 0, job.content)
            return photo_from_bytes(job.image_id, job.data, source, preprocessing, self._limits)
        assert self.catalog is not None, "without a catalogue nothing is resolved"
        return read_photo(self.catalog, job.image_id, preprocessing, self._limits)

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._ready and not self._closed:
                    self._wake.wait()
                if not self._ready:
                    return
                serving, model = self._ready[0].serving, self._ready[0].model
                batch: dict[int, _Job] = {}  # an image once: two contents of one id are stored one after the other
                while self._ready and len(batch) < MAX_BATCH and self._ready[0].serving is serving:
                    if self._ready[0].image_id in batch:
                        break
                    job = self._ready.popleft()
                    batch[job.image_id] = job
            try:
                self._compute(serving, model, list(batch.values()))
            except Exception as error:
                if not isinstance(error, CrossMediaError):
                    log.exception("a batch of %d images failed", len(batch))
                else:
                    log.error("a batch of %d images failed: %s", len(batch), error)
                for job in batch.values():
                    self._finish(job, pb.VECTOR_STATUS_FAILED)

    def _compute(self, serving: Serving, model: Model, batch: list[_Job]) -> None:
        """CNN, head, rows and index, table, reply: in this order."""
        now = time.monotonic()
        late = [job for job in batch if now > job.deadline]
        for job in late:
            self._finish(job, pb.VECTOR_STATUS_TIMED_OUT)
        batch = [job for job in batch if job not in late]
        seen = [job for job in batch if job.photo is not None and job.photo.pixels is not None]
        failed = [job for job in batch if job.photo is not None and job.photo.status != OK]
        if seen:
            pixels = np.stack([job.photo.pixels for job in seen if job.photo and job.photo.pixels is not None])
            # Rounded to what is stored, so that a vector is the same whether its feature was just computed or read.
            features = model.embedder.engine.run(pixels).astype(model.features.dtype)
            for job, feature in zip(seen, features, strict=True):
                job.feature = feature
            self.counters.cnn_passes += len(seen)
            self.counters.cnn_batches += 1
        if seen + failed:
            self._put(model.features, seen + failed, _features(seen))
        done = [job for job in batch if job.feature is not None]
        features_of_done = _features(done)
        vectors = model.head.apply_numpy(features_of_done) if features_of_done is not None else None
        if batch:
            self._put(serving.table.space, done + failed, vectors)
            serving.table.refresh()
        self.counters.computed += len(done)
        self.last_batch_at = time.monotonic()
        for job in batch:
            self._finish(job, job.photo.status if job.photo else OK)

    def _put(self, space: Space, jobs: list[_Job], values: npt.NDArray[Any] | None) -> None:
        photos = [job.photo for job in jobs if job.photo is not None]
        ids = np.array([photo.image_id for photo in photos], dtype=np.int64)
        status = np.array([photo.status for photo in photos], dtype=np.uint8)
        self._store.put(space, ids, values, status, sources_of(photos), OK)

    def _finish(self, job: _Job, status: int) -> None:
        with self._lock:
            self._jobs.pop(job.key, None)
        job.done.set_result(status)


def _features(jobs: list[_Job]) -> npt.NDArray[Any] | None:
    """Features of jobs that have one, shape (n, F); None when there is no job."""
    return np.stack([job.feature for job in jobs if job.feature is not None]) if jobs else None
