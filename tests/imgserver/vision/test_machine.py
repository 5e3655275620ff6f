"""What is taken of a machine, and engines behind one queue."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

from crossmedia.errors import BadInput
from crossmedia.imgserver.text.backbone import TextBackbone, TextEngine
from crossmedia.imgserver.vision.backbones import get_backbone
from crossmedia.imgserver.vision.decode import ImageLimits
from crossmedia.imgserver.vision.decoders import Decoders
from crossmedia.imgserver.vision.engines import FeatureArray, Pictures, run_all, stacked
from crossmedia.imgserver.vision.machine import Machine
from crossmedia.imgserver.vision.make_engine import SeveralEngines, make_engine


def test_what_is_not_said_suits_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    cores = len(os.sched_getaffinity(0))
    decoders = cores + 2 if cores <= 8 else cores - cores // 8
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    cpu = Machine()
    assert (cpu.gpus, cpu.batch, cpu.decoders, cpu.commit) == ((), 32, decoders, 256)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    gpu = Machine()
    assert (gpu.gpus, gpu.batch, gpu.in_flight, gpu.commit) == (("cuda:0",), 256, 3, 1024)
    assert Machine(devices=("cuda:1", "cuda")).gpus == ("cuda:1", "cuda:0")
    assert Machine(devices=("cuda:0", "cuda:1")).in_flight == 6
    assert Machine(devices=("cpu",)).gpus == ()
    assert (Machine(batch_size=64).batch, Machine(decode_threads=48).decoders) == (64, 48)
    assert Decoders(ImageLimits()).workers == decoders


@pytest.mark.parametrize(
    ("devices", "said"),
    [
        (("cuda:2",), r"no device 'cuda:2' on this machine: its GPUs are cuda:0, cuda:1\. Give --device cpu"),
        (("cpu", "cuda:0"), "no device 'cpu'"),
        (("cuda", "cuda:0"), "names a GPU twice"),
    ],
)
def test_devices_that_are_not_there_are_refused(
    devices: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(BadInput, match=said):
        _ = Machine(devices=devices).gpus


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"threads": -1}, "threads is -1; it must be a whole number, at least 0"),
        ({"decode_threads": 1.5}, "decode_threads is 1.5"),
        ({"batch_size": "32"}, "batch_size is '32'"),
        ({"devices": "cuda:0"}, r"devices is 'cuda:0'; it must be a tuple of names"),
    ],
)
def test_what_is_no_number_or_no_device_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        Machine(**given)


@pytest.mark.parametrize("devices", [(), ("cuda:1", "cuda:0")])
def test_texts_go_through_the_first_device_in_batches_of_the_machine(
    devices: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2 if devices else 0)
    lengths, asked = [], []

    def make(threads: int, device: str) -> TextEngine:
        def encode(texts: Sequence[str]) -> FeatureArray:
            lengths.append(len(texts))
            return np.array([[len(text)] for text in texts], dtype=np.float32)

        asked.append((threads, device))
        return TextEngine("slow", encode)

    engine = make_engine(TextBackbone("x", "text:x@123456789abc", 1, make), None, Machine(3, 0, 8, devices))
    texts = [np.array("a" * n) for n in range(20)]
    assert run_all(engine, texts)[:, 0].tolist() == list(range(20))
    assert (asked, lengths) == ([(3, devices[0] if devices else "cpu")], [8, 8, 4])


def test_a_text_encoder_is_one_calls_at_a_time() -> None:
    inside: list[int] = []

    def encode(texts: Sequence[str]) -> FeatureArray:
        inside.append(1)
        time.sleep(0.02)
        assert len(inside) == 1, "two calls at once"
        inside.pop()
        return np.zeros((len(texts), 1), dtype=np.float32)

    engine = TextEngine("slow", encode)
    with ThreadPoolExecutor(4) as pool:
        assert sum(map(len, pool.map(engine.run, [["a"]] * 8))) == 8


def test_a_machine_without_a_gpu_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(BadInput, match="torch finds no GPU on it"):
        _ = Machine(devices=("cuda",)).gpus


def test_tf32_is_for_gpus_and_a_version_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    plain, tf32 = get_backbone("efficientnet_lite0"), get_backbone("efficientnet_lite0#tf32")
    assert tf32.version == plain.version + "#tf32"
    with pytest.raises(BadInput, match="needs a GPU for its #tf32"):
        make_engine(tf32, None)
    for recipe in ("efficientnet_lite0#bf16#tf32", "efficientnet_lite0#tf32#bf16"):
        with pytest.raises(BadInput, match="more than one format of numbers"):
            get_backbone(recipe)


class Slow:
    """An engine that is one call at a time, and counts them."""

    batch, in_flight = 4, 1

    def __init__(self, name: str):
        self.name, self.calls, self._lock = name, 0, threading.Lock()

    def run(self, pictures: Pictures) -> FeatureArray:
        pixels = stacked(pictures)
        assert self._lock.acquire(blocking=False), "two calls at once"
        try:
            self.calls += 1
            time.sleep(0.02)
            return pixels.reshape(len(pixels), -1)[:, :1].astype(np.float32)
        finally:
            self._lock.release()


def test_engines_share_one_queue() -> None:
    engines = [Slow("a"), Slow("b")]
    both = SeveralEngines(engines)
    assert (both.name, both.batch, both.in_flight) == ("a, b", 4, 2)
    given = [np.full((3, 2, 2, 3), number, dtype=np.uint8) for number in range(20)]
    with ThreadPoolExecutor(both.in_flight) as pool:
        found = list(pool.map(both.run, given))
    np.testing.assert_array_equal(np.stack(found)[:, 0, 0], np.arange(20))
    assert min(engine.calls for engine in engines) >= 8


def test_an_engine_that_fails_takes_the_next_batch() -> None:
    one = Slow("a")
    both = SeveralEngines([one])
    with pytest.raises(ValueError, match="reshape"):
        both.run(np.zeros((0, 2, 2, 3), dtype=np.uint8))
    assert both.run(np.ones((1, 2, 2, 3), dtype=np.uint8)).tolist() == [[1.0]]
