"""How much of a machine embedding takes: its devices, the images of a batch, the photos that are decoded at once."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property

import torch

from crossmedia.arguments import check_whole, must
from crossmedia.errors import BadInput
from crossmedia.imgserver.vision.cost import decode_processes

CPU = "cpu"
CPU_BATCH, CUDA_BATCH = 32, 256
CPU_IN_FLIGHT, CUDA_IN_FLIGHT = 2, 3  # batches at once: one is brought while another is computed and one is taken
LEAST_COMMIT = 256  # photos


@dataclass(frozen=True)
class Machine:
    """What a process takes of its machine to embed photos or texts; what is 0 or empty suits the machine.

    Attributes:
        threads: of the CNN on a CPU; 0 takes all cores.
        decode_threads: photos that are decoded at once; 0: one a core, less one of eight for the process that reads
            them; on a small machine two more than cores, so that two slow photos keep none of the others from work.
        batch_size: images that go through the CNN at a time; 0: 32 on a CPU, 256 on a GPU.
        devices: ``cpu``, or GPUs such as ``cuda:1``, each with an engine of its own; empty: the first GPU if there is
            one, else the CPU. Texts go through the first one.
        compile: on a GPU, let ``torch.compile`` fuse what the net does: a minute before the first photo, faster then.

    Raises:
        BadInput: a value is of another type, or below 0.

    Example:
        >>> import crossmedia
        >>> crossmedia.Machine(devices=("cpu",), batch_size=16).batch
        16
    """

    threads: int = 0
    decode_threads: int = 0
    batch_size: int = 0
    devices: tuple[str, ...] = ()
    compile: bool = False

    def __post_init__(self) -> None:
        for name in ("threads", "decode_threads", "batch_size"):
            check_whole(name, getattr(self, name), 0)
        named = isinstance(self.devices, tuple) and all(isinstance(name, str) for name in self.devices)
        must(named, "devices", self.devices, "a tuple of names, such as ('cuda:0',)")

    @cached_property
    def gpus(self) -> tuple[str, ...]:
        """The GPUs that embed, as torch names them; none: the CPU does.

        Raises:
            BadInput: a device is not there, or is named twice or beside ``cpu``.
        """
        there = tuple(f"cuda:{number}" for number in range(torch.cuda.device_count()))
        if not self.devices:
            return there[:1]
        if self.devices == (CPU,):
            return ()
        asked = tuple("cuda:0" if name == "cuda" else name for name in self.devices)
        for name in asked:
            if name not in there:
                has = f"its GPUs are {', '.join(there)}" if there else "torch finds no GPU on it"
                give = " or ".join(("cpu", *there))
                raise BadInput(f"There is no device {name!r} on this machine: {has}. Give --device {give}.")
        if len(set(asked)) < len(asked):
            raise BadInput(f"--device {','.join(self.devices)} names a GPU twice; name each once.")
        return asked

    @property
    def first(self) -> str:
        """The device for what runs on one alone, as torch names it."""
        return next(iter(self.gpus), CPU)

    @property
    def batch(self) -> int:
        """Images that go through the CNN at a time."""
        return self.batch_size or (CUDA_BATCH if self.gpus else CPU_BATCH)

    @property
    def in_flight(self) -> int:
        """Batches that are worth having under way at once."""
        return CUDA_IN_FLIGHT * len(self.gpus) or CPU_IN_FLIGHT

    @property
    def decoders(self) -> int:
        """Photos that are decoded at once."""
        return self.decode_threads or decode_processes(len(os.sched_getaffinity(0)))

    @property
    def commit(self) -> int:
        """Photos that are written in one go, and so decoded ahead: a kill costs no more."""
        return max(LEAST_COMMIT, (self.in_flight + 1) * self.batch if self.gpus else self.batch)
