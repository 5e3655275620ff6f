"""A backbone on one GPU: several batches under way, copied from pinned memory while others are computed.

    thread 1   fill ─ copy ─ compute ─ take
    thread 2          fill ─ copy ──── compute ─ take
    thread 3                 fill ─ copy ─────── compute ─ take

Each call has a slot: pinned memory for its pixels and its features, and room for the pixels on the GPU. Copies have a
stream of their own, so that the computation never waits for the bus. A full batch is one replay of a CUDA graph, which
takes Python no time; smaller ones are launched kernel by kernel.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from crossmedia.errors import BadInput
from crossmedia.imgserver.vision.backbone import Backbone, Normalised, OnnxGraph
from crossmedia.imgserver.vision.engines import FeatureArray, Pictures
from crossmedia.imgserver.vision.gpu_jpeg import Decode, Jpeg, decoder, resized
from crossmedia.imgserver.vision.machine import CUDA_IN_FLIGHT, Machine

log = logging.getLogger(__name__)

WARM_UP = 3  # runs before a graph is captured: cuDNN chooses its kernels in them
_launching = threading.Lock()  # how floats are multiplied is a setting of the process


class _Slot:
    """What one batch under way needs: pixels of a shape (n, size, size, 3), and features of ``dim`` numbers."""

    def __init__(self, shape: tuple[int, ...], dim: int, device: torch.device):
        self.pixels = torch.empty(shape, dtype=torch.uint8, pin_memory=True)
        self.features = torch.empty((shape[0], dim), dtype=torch.float32, pin_memory=True)
        self.on_device = torch.empty_like(self.pixels, device=device)
        self.copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self.done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]


class CudaEngine:
    """The backbone in torch on a GPU, in float32, TF32 or bfloat16 as its version says.

    Args:
        backbone: what to run.
        device: such as ``cuda:0``.
        machine: images of a batch, and whether to compile.

    Attributes:
        device: the GPU.
        shape: of the pixels of an image.
        batch: images of a full batch; fewer than asked for where the GPU's memory holds no more.

    Raises:
        BadInput: the GPU's memory does not hold one image on its way.
    """

    in_flight = CUDA_IN_FLIGHT

    def __init__(self, backbone: Backbone, device: str, machine: Machine):
        assert not isinstance(backbone.graph, OnnxGraph), "make_engine gives ONNX graphs to OpenVINO"
        self.name, self.batch = f"torch-{device}", machine.batch
        self.device, self._tf32 = torch.device(device), backbone.tf32
        self._module, self._autocast = _placed(backbone, self.device)
        self._full: nn.Module | Callable[[Tensor], Tensor] = self._module
        if machine.compile:
            self._full = torch.compile(self._module, dynamic=False)
        self._copying = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        self._computing = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        self._preprocessing, size = backbone.preprocessing, backbone.preprocessing.size
        self._decode: Decode | None = decoder() if backbone.preprocessing.jpeg == "nvjpeg" else None
        self.shape = size, size, 3
        replay = self._captured()
        while replay is None:
            if self.batch == 1:
                raise BadInput(f"The memory of {device} does not hold one image in {backbone.recipe}.")
            self.batch = (self.batch + 1) // 2
            log.warning("the memory of %s holds no more than batches of %d of this net", device, self.batch)
            torch.cuda.empty_cache()
            replay = self._captured()
        self._replay = replay
        slots = [_Slot((self.batch, *self.shape), backbone.feature_dim, self.device) for _ in range(self.in_flight)]
        self._free: queue.SimpleQueue[_Slot] = queue.SimpleQueue()
        for slot in slots:
            self._free.put(slot)

    def run(self, pictures: Pictures) -> FeatureArray:
        """Features, shape (n, F), of pictures: pixels, uint8, shape (n, size, size, 3), or a list of them and of JPEGs.

        A row of a JPEG that the GPU cannot decode is nan.
        """
        blocks = [pictures[start : start + self.batch] for start in range(0, len(pictures), self.batch)]
        found = [self._run(block) for block in blocks]
        return found[0] if len(found) == 1 else np.concatenate(found)

    def _run(self, pictures: Pictures) -> FeatureArray:
        slot, n = self._free.get(), len(pictures)
        jpegs = {place: picture for place, picture in enumerate(pictures) if isinstance(picture, Jpeg)}
        try:
            decoded, failed = self._decoded(list(jpegs.values())) if jpegs else ([], [])
            into = slot.pixels.numpy()
            for place, picture in enumerate(pictures):
                if not isinstance(picture, Jpeg):
                    into[place] = picture
            with _launching, torch.inference_mode(), torch.cuda.device(self.device):
                if len(jpegs) < n:
                    with torch.cuda.stream(self._copying):
                        slot.on_device[:n].copy_(slot.pixels[:n], non_blocking=True)
                        slot.copied.record()
                    self._computing.wait_event(slot.copied)
                with torch.cuda.stream(self._computing):
                    if jpegs:
                        rows = resized(decoded, self._preprocessing)
                        if len(jpegs) == n:
                            slot.on_device[:n].copy_(rows)
                        else:  # one by one, for an index would have to be copied, and copying one waits for all before
                            for place, row in zip(jpegs, rows, strict=True):
                                slot.on_device[place].copy_(row)
                    slot.features[:n].copy_(self.features(slot.on_device[:n]), non_blocking=True)
                    slot.done.record()
            slot.done.synchronize()  # this thread sleeps; others go on
            found = slot.features.numpy()[:n].copy()
        finally:
            self._free.put(slot)
        places = list(jpegs)
        found[[places[number] for number in failed]] = np.nan
        return found

    def _decoded(self, photos: Sequence[Jpeg]) -> tuple[list[Tensor], list[int]]:
        """Pictures on the GPU, shape (3, height, width) each, and the places of those that cannot be decoded: black."""
        assert self._decode is not None, "only a backbone whose JPEGs the GPU decodes is given any"
        with torch.inference_mode(), torch.cuda.device(self.device), torch.cuda.stream(self._computing):
            try:
                return self._decode(photos, self.device), []
            except RuntimeError:
                pass
            pictures, failed = [], []
            for place, photo in enumerate(photos):
                try:
                    pictures += self._decode([photo], self.device)
                except RuntimeError:
                    failed.append(place)
                    pictures.append(torch.zeros((3, *self.shape[:2]), dtype=torch.uint8, device=self.device))
            return pictures, failed

    def features(self, pixels: Tensor) -> Tensor:
        """Launch the net on pixels that are on the GPU, uint8, shape (n, size, size, 3); fp32, shape (n, F).

        What it returns for a full batch is overwritten by the next full batch.
        """
        if len(pixels) == self.batch:
            return self._replay(pixels)
        with self._multiplying(choose=False):
            return self._forward(self._module, pixels)

    def _forward(self, module: Callable[[Tensor], Tensor], pixels: Tensor) -> Tensor:
        with torch.autocast("cuda", torch.bfloat16, enabled=self._autocast):
            return module(pixels).float()

    def _captured(self) -> Callable[[Tensor], Tensor] | None:
        """What computes a full batch: the replay of a graph, or launches where the net cannot be captured.

        Returns:
            None where memory does not hold such a batch.
        """
        pixels = torch.zeros((self.batch, *self.shape), dtype=torch.uint8, device=self.device)
        with _launching, torch.inference_mode(), torch.cuda.device(self.device), self._multiplying(choose=True):
            try:
                with torch.cuda.stream(self._computing):
                    for _ in range(WARM_UP):
                        self._forward(self._full, pixels)
                self._computing.synchronize()
            except torch.cuda.OutOfMemoryError:
                return None
            graph = torch.cuda.CUDAGraph()
            try:
                with torch.cuda.graph(graph, stream=self._computing, capture_error_mode="thread_local"):
                    features = self._forward(self._full, pixels)
            except torch.cuda.OutOfMemoryError:
                return None
            except RuntimeError as error:  # the net asks the GPU for numbers in between
                log.warning("the net is launched kernel by kernel on %s: %s", self.name, str(error).splitlines()[0])
                return self._launched

        def replay(given: Tensor) -> Tensor:
            pixels.copy_(given)
            graph.replay()
            return features

        return replay

    def _launched(self, pixels: Tensor) -> Tensor:
        with self._multiplying(choose=False):
            return self._forward(self._full, pixels)

    @contextmanager
    def _multiplying(self, *, choose: bool) -> Iterator[None]:
        """How floats are multiplied as the version says, and whether cuDNN tries which of its kernels is fastest."""
        cudnn = torch.backends.cudnn
        before = torch.get_float32_matmul_precision(), cudnn.allow_tf32, cudnn.benchmark
        torch.set_float32_matmul_precision("high" if self._tf32 else "highest")
        cudnn.allow_tf32, cudnn.benchmark = self._tf32, choose
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before[0])
            cudnn.allow_tf32, cudnn.benchmark = before[1:]


def _placed(backbone: Backbone, device: torch.device) -> tuple[nn.Module, bool]:
    """The module on the GPU, channels last as its matrix units want them; and whether autocast makes it bfloat16."""
    assert not isinstance(backbone.graph, OnnxGraph)
    module = backbone.graph()
    if whole := backbone.bf16 and isinstance(module, Normalised) and isinstance(module.net, nn.Module):
        module.in_bf16()
    module.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return module, backbone.bf16 and not whole
