"""Health that means something: work really goes through.

When no CNN batch ran for 10 s, a built-in picture goes through decoding, CNN and a read of the store. A probe that
fails or does not end in time turns the service NOT_SERVING, and the next good one turns it back.
"""

from __future__ import annotations

import io
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from imgserver.serving.service import ImageService
from imgserver.vision.decode import decode

log = logging.getLogger(__name__)

SERVICE_NAME = "crossmedia.v1.ImageService"
PROBE_AFTER_S = 10.0
PROBE_TIMEOUT_S = 10.0
CHECK_EVERY_S = 1.0


def built_in_photo() -> bytes:
    """A small JPEG of a colour gradient."""
    ramp = np.linspace(0, 255, 64, dtype=np.uint8)
    pixels = np.stack([np.tile(ramp, (64, 1)), np.tile(ramp[:, None], (1, 64)), np.full((64, 64), 128, np.uint8)], -1)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG")
    return out.getvalue()


class Heartbeat:
    """Watches a service and reports through ``on_change(serving)``.

    Args:
        service: what is watched.
        on_change: called with True or False when the state changes, and once at the start.
        probe_after_s: seconds without a CNN batch until a probe runs.
    """

    def __init__(self, service: ImageService, on_change: Callable[[bool], None], probe_after_s: float = PROBE_AFTER_S):
        self._service, self._on_change, self._probe_after_s = service, on_change, probe_after_s
        self._photo = built_in_photo()
        self._prober = ThreadPoolExecutor(1, thread_name_prefix="probe")
        self._stop = threading.Event()
        self._healthy: bool | None = None
        self._probed_at = -float("inf")
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Probe once, report, and go on watching."""
        self._report(self._probe())
        self._thread.start()

    def stop(self) -> None:
        """Stop watching."""
        self._stop.set()
        self._prober.shutdown(wait=False)

    def _run(self) -> None:
        while not self._stop.wait(CHECK_EVERY_S):
            misses = self._service.misses
            last = max(self._probed_at, misses.last_batch_at)
            if self._healthy and not misses.alive:
                self._report(False)
            elif not self._healthy or time.monotonic() - last > self._probe_after_s:
                self._report(self._probe())

    def _report(self, healthy: bool) -> None:
        if healthy != self._healthy and not self._stop.is_set():
            self._healthy = healthy
            log.log(logging.INFO if healthy else logging.ERROR, "health: %s", "serving" if healthy else "not serving")
            self._on_change(healthy)

    def _probe(self) -> bool:
        try:
            self._prober.submit(self._work).result(PROBE_TIMEOUT_S)
        except Exception as error:
            log.error("the health probe failed: %s: %s", type(error).__name__, error)
            return False
        self._probed_at = time.monotonic()
        return True

    def _work(self) -> None:
        service, serving = self._service, self._service.served.active
        # An engine that nobody needed yet is not made for a probe.
        if serving is not None and serving.model is not None and serving.model.embedder.engine_name != "none":
            embedder = serving.model.embedder
            pixels = decode(self._photo, embedder.backbone.preprocessing, service.config.limits)
            if not np.isfinite(embedder.engine.run(pixels[None])).all():
                raise ArithmeticError("the CNN gave numbers that are not finite")
        if not service.misses.alive:
            raise RuntimeError("a thread that images pass through has ended")
        if service.served.loading:
            raise RuntimeError("the table is still loading")
        _ = service.store.index.generation
        if service.catalog is None and not service.store.answers:
            raise RuntimeError("no node of the store answers, and there is no catalogue to compute from")
