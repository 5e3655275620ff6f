"""What the health of an image server means: a photo gets through.

When no CNN batch ran for 10 s, a built-in picture goes the way of every photo that is asked for, or a text that of
every text: a read of the store, decoding, CNN, the writer's thread. It waits as others do, only not behind them, and is
not stored. A probe that fails, or does not end in time while no other photo gets through the CNN, turns the service
NOT_SERVING (``crossmedia/service/heartbeat.py``).
"""

from __future__ import annotations

import io
import time

import numpy as np
from PIL import Image

from crossmedia.imgserver.serving.open_versions import OpenVersion
from crossmedia.imgserver.serving.service import ImageService
from crossmedia.imgserver.text.backbone import TextBackbone
from crossmedia.status import Status

PROBE_AFTER_S = 10.0
PROBE_TIMEOUT_S = 20.0  # twice what it waits for a decoder while each of them is at the slowest photo there can be


def built_in_photo() -> bytes:
    """A small JPEG of a colour gradient."""
    ramp = np.linspace(0, 255, 64, dtype=np.uint8)
    pixels = np.stack([np.tile(ramp, (64, 1)), np.tile(ramp[:, None], (1, 64)), np.full((64, 64), 128, np.uint8)], -1)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG")
    return out.getvalue()


class SeesPhotos:
    """The work of an image server, for ``Heartbeat``.

    Args:
        service: what is watched.
    """

    timeout_s = PROBE_TIMEOUT_S

    def __init__(self, service: ImageService):
        self._service, self._photo = service, built_in_photo()

    @property
    def alive(self) -> bool:
        """Whether each thread that images pass through runs."""
        return self._service.misses.alive

    @property
    def last_at(self) -> float:
        """When the last CNN batch ended."""
        return self._service.misses.last_batch_at

    def probe(self) -> None:
        """See the built-in photo.

        Raises:
            Exception: of any kind: it did not get through.
        """
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
