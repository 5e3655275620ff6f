"""A model is replaced while it is asked: no call fails, both versions are told, and the one before comes back."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import grpc
import pytest
import torch
from conftest import run_command, soon
from exported_files import with_native_code
from oip import call, channel, infer, output
from scoring_server import ScoringProcess, Shop, make_store, train

from crossmedia.imgserver.client import ImageClient
from crossmedia.inference import grpc_predict_v2_pb2 as pb
from crossmedia.trainer.runs.checkpoint import load_model, save_run
from crossmedia.trainer.serving.requests import Request
from crossmedia.trainer.serving.served import ServedModel
from crossmedia.trainer.serving.settings import ServingConfig

USER: dict[str, list[Any]] = {
    "user_id": ["u1"],
    "hist_item_id": ["i3", "i4"],
    "hist_action": ["clicked"] * 2,
    "hist_time": [1000, 1001],
}
REQUEST = infer(USER | {"item_id": ["i1", "i2", "i3"]}, now=2000)


@pytest.fixture(scope="module")
def second(shop: Shop) -> Path:
    """Another model of the same samples."""
    run = train(shop.folder, "din-2", shop.images.address, "--model=din", "--images", "--seed=7")
    run_command("trainer", "export", str(run), f"--out={shop.folder / 'second.pt2'}")
    return shop.folder / "second.pt2"


@pytest.fixture
def server(shop: Shop, second: Path, tmp_path: Path) -> Iterator[tuple[ScoringProcess, Path]]:
    """A server of a copy of the model, with the other beside it."""
    models = tmp_path / "models"
    models.mkdir()
    shutil.copy(shop.exported, models / "din.pt2")
    shutil.copy(second, models / "second.pt2")
    found = ScoringProcess(
        tmp_path / "serving", str(models / "din.pt2"), f"--server={shop.images.address}", "--metrics-port=0"
    )
    yield found, models
    found.stop()


def switch(server: ScoringProcess, *arguments: str, check: bool = True) -> Any:
    done = run_command("trainer", "switch", *arguments, f"--folder={server.folder}", "--json", check=check)
    return json.loads(done.stdout) if check else done.stderr


def with_nan(run: Path, out: Path) -> None:
    """A run whose training ended in numbers that are none."""
    model, lineage, settings = load_model(run)
    with torch.no_grad():
        for weights in model.parameters():
            weights.fill_(torch.nan)
    shutil.copytree(run, out)
    save_run(out, model, lineage, settings)


def version(opened: grpc.Channel) -> str:
    found: str = call(opened, "ModelInfer", REQUEST).model_version
    return found


def test_a_switch_under_load_fails_no_call_and_can_be_taken_back(server: tuple[ScoringProcess, Path]) -> None:
    process, _ = server
    versions: Counter[str] = Counter()
    failed: list[str] = []
    stop = threading.Event()

    def ask() -> None:
        with channel(process.address) as opened:
            while not stop.is_set():
                try:
                    versions[version(opened)] += 1
                except grpc.RpcError as error:
                    failed.append(str(error))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    with channel(process.address) as opened:
        first = version(opened)
        time.sleep(0.5)
        held = switch(process, "second.pt2")
        new = version(opened)
        assert new != first
        roles = {one["version"]: one["role"] for one in held}
        assert roles[first] == "previous"
        assert roles[new].startswith("active. On 32 recorded requests, 96 candidates: scores differ by ")
        pinned = pb.ModelInferRequest()
        pinned.CopyFrom(REQUEST)
        pinned.model_version = first
        assert call(opened, "ModelInfer", pinned).model_version == first, "the one before can still be asked"
        time.sleep(0.5)
        assert "active" in str(switch(process, "--rollback"))
        assert version(opened) == first
        assert switch(process, "--rollback")[0]["version"] == new, "back and forth"
    stop.set()
    for thread in threads:
        thread.join()
    assert failed == []
    assert versions[first] > 10
    assert versions[new] > 10
    assert sum(versions.values()) > 100


def test_the_next_model_finds_the_vectors_of_the_one_before(shop: Shop, second: Path) -> None:
    config = ServingConfig(server=shop.images.address)
    load = partial(ServedModel.load, config=config, client=partial(ImageClient, cache_bytes=1 << 20))
    old, new = load(shop.exported, ""), load(second, "")
    asked = Request({"user_id": "u1"}, {"item_id": ["i1", "i2", "i3"]}, 3, 2000.0)
    assert old.answer(asked).status.tolist() == [1, 1, 1]
    new.share_vectors(old)
    (before,), (after,) = old.sources().values(), new.sources().values()
    assert before.source is after.source
    cached = after.source.stats.cached
    assert new.answer(asked).status.tolist() == [1, 1, 1]
    assert after.source.stats.cached > cached
    old.close(but=[after.source])
    assert after.source.get([1], timeout_s=10).ok.all(), "the connection is still there"
    new.close()


def test_a_file_that_was_replaced_is_loaded_again(server: tuple[ScoringProcess, Path]) -> None:
    process, models = server
    with channel(process.address) as opened:
        first = version(opened)
        assert "it is the active one" in switch(process, check=False)
        (models / "second.pt2").replace(models / "din.pt2")
        switch(process)
        assert version(opened) != first
        told = call(opened, "ModelMetadata", pb.ModelMetadataRequest(name="din"))
        assert [*told.versions] == [version(opened), first]


def test_a_share_of_the_requests_and_none_of_them(server: tuple[ScoringProcess, Path]) -> None:
    process, _ = server
    with channel(process.address) as opened:
        first = version(opened)
        held = switch(process, "second.pt2", "--shadow")
        assert [one["role"].split(".")[0] for one in held] == ["active", "shadow"]
        assert {version(opened) for _ in range(20)} == {first}

        def metric(name: str) -> float:
            url = f"http://127.0.0.1:{process.metrics_port}/metrics"
            lines = urllib.request.urlopen(url, timeout=10).read().decode().splitlines()
            return float(next((line.split()[-1] for line in lines if line.startswith(name)), "nan"))

        assert soon(lambda: metric("crossmedia_shadow_candidates_total") >= 3)
        assert metric("crossmedia_shadow_difference_total") > 0
        switch(process, "--rollback")
        held = switch(process, "second.pt2", "--canary=50%")
        assert held[1]["role"].startswith("canary, 50% of the requests. On ")
        found = Counter(version(opened) for _ in range(60))
        assert len(found) == 2
        assert min(found.values()) > 10
        switch(process, "second.pt2")  # all of them
        assert {version(opened) for _ in range(20)} == {held[1]["version"]}
        switch(process, "--rollback")
        held = switch(process, "second.pt2", "--canary=50%")  # it is held as the one before
        assert [one["role"].split(",")[0] for one in held] == ["active", "canary"]
        assert len({version(opened) for _ in range(60)}) == 2


def test_what_cannot_take_its_place_changes_nothing(
    server: tuple[ScoringProcess, Path], shop: Shop, tmp_path: Path
) -> None:
    process, models = server
    (models / "garbage.pt2").write_bytes(b"no model")
    os.mkfifo(models / "pipe")
    digest = sha256(with_native_code(shop.exported, models / "native.pt2").read_bytes()).hexdigest()
    other = make_store(tmp_path / "other", 45, seed=9)
    run_command("imgserver", "serve", f"--store={other}", "--port=0", "--background")
    address = json.loads((other / "daemon.json").read_text())["address"]
    run = train(shop.folder, "din-3", address, "--model=din", "--images")
    run_command("imgserver", "stop", f"--store={other}")
    run_command("trainer", "export", str(run), f"--out={models / 'third.pt2'}")
    with_nan(shop.run, models / "nan")
    with channel(process.address) as opened:
        first = version(opened)
        for arguments, words in {
            ("garbage.pt2",): "holds no exported model",
            ("nothing.pt2",): "No such file",
            ("x" * 300,): "File name too long",
            ("pipe",): "It is no file, but a pipe or a device",
            ("native.pt2",): "holds native code, a package of AOTInductor",
            ("native.pt2", f"--trust-native={'0' * 64}"): f"give --trust-native {digest};",
            ("native.pt2", "--trust-native=xyz"): "is 'xyz'; it must be a sha256",
            ("native.pt2", f"--trust-native={digest.upper()}"): "holds no exported model",
            ("native.pt2", f"--trust-native={digest}"): "holds no exported model",  # the loader of PyTorch has it
            ("..",): "lies in another folder",
            ("nan",): "scores that are no numbers",
            ("../serving/daemon.log",): "lies in another folder",
            ("third.pt2",): "clip@",  # of other vectors than the server has
            ("second.pt2", "--canary=105%"): "is no share of requests",
            ("second.pt2", "--canary=5%", "--shadow"): "Choose one",
            ("second.pt2", "--rollback"): "takes no file",
            ("--rollback",): "it was the first",
            ("--model=dim",): "Did you mean 'din'?",
        }.items():
            assert words in switch(process, *arguments, check=False), arguments
        assert version(opened) == first
        (held,) = call(opened, "RepositoryIndex", pb.RepositoryIndexRequest()).models
        assert (held.version, held.state, held.reason) == (first, "READY", "active")
        with pytest.raises(grpc.RpcError, match="is not unloaded here"):
            call(opened, "RepositoryModelUnload", pb.RepositoryModelUnloadRequest(model_name="din"))
        request = pb.RepositoryModelLoadRequest(model_name="din")
        request.parameters["config"].string_param = "{}"
        with pytest.raises(grpc.RpcError, match="no parameter 'config' here"):
            call(opened, "RepositoryModelLoad", request)
        assert output(call(opened, "ModelInfer", REQUEST), "status").tolist() == [1, 1, 1]
