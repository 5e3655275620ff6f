"""Health that means something: work really goes through.

When no CNN batch ran for 10 s, a built-in picture goes the way of every photo that is asked for, or a text that of
every text: a read of the store, decoding, CNN, the writer's thread. It waits as others do, only not behind them, and is
not stored. A probe that fails, or does not end in time while no other photo gets through the CNN, turns the service
NOT_SERVING, and the next good one turns it back.
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

from crossmedia.imgserver.serving.open_versions import OpenVersion
from crossmedia.imgserver.serving.service import ImageService
from crossmedia.imgserver.text.backbone import TextBackbone
from crossmedia.status import Status

log = logging.getLogger(__name__)

PROBE_AFTER_S = 10.0
PROBE_TIMEOUT_S = 20.0  # twice what it waits for a decoder while each of them is at the slowest photo there can be
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
        self._said = ""
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
            self._prober.submit(self._work).result(PROBE_TIMEOUT_S + 1)
        except Exception as error:
            failure = f"{type(error).__name__}: {error}"
            if failure != self._said:  # once, not every second
                log.error("the health probe failed: %s", failure)
            self._said = failure
            return False
        self._said = ""
        self._probed_at = time.monotonic()
        return True

    def _work(self) -> None:
        service, serving = self._service, self._service.served.active
        if serving is None:
            raise RuntimeError("there are no vectors yet")
        self._see_a_photo(serving)
        if not service.misses.alive:
            raise RuntimeError("a thread that images pass through has ended")
        if service.served.loading:
            raise RuntimeError("the table is still loading")
        _ = service.store.index.generation
        if service.catalogue is None and not service.store.readable:
            raise RuntimeError("nothing of the store can be read now, and there is no catalogue to compute from")

    def _see_a_photo(self, serving: OpenVersion) -> None:
        misses, started = self._service.misses, time.monotonic()
        # An engine that nobody needed yet is not made for a probe.
        if serving.maker is None or serving.maker.embedder.engine_name == "none" or not misses.alive:
            return
        backbone = serving.maker.embedder.backbone
        probe = backbone.probe.encode() if isinstance(backbone, TextBackbone) else self._photo
        status = misses.probe(serving.maker, probe, started + PROBE_TIMEOUT_S)
        late = status == Status.TIMED_OUT
        if late and misses.last_batch_at < started:
            raise TimeoutError(f"no photo got through decoding and CNN within {PROBE_TIMEOUT_S:.0f} s")
        if not late and status != Status.OK:
            name = Status(status).name
            raise RuntimeError(f"the built-in photo ended as {name}: not decoded, or with numbers that are not finite")
