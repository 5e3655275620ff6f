"""The head service: what is put, held, asked for and refused; heads themselves; who owns which image."""

from __future__ import annotations

import pickle
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import DaemonProcess, run_command
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

from crossmedia.errors import BadInput, DeadlineExceeded, InvalidRequest, Overloaded, ServerUnavailable, VersionMismatch
from crossmedia.imgserver.client import HeadServers, ImageClient, LocalTransport, Status
from crossmedia.imgserver.client.head_servers import HeadState, head_gradient, put_head
from crossmedia.imgserver.client.retries import Deadline
from crossmedia.imgserver.head import Head, HeadSpec, fit_pca, new_head
from crossmedia.imgserver.offline.head_vectors import apply_head
from crossmedia.imgserver.serving import heads as heads_module
from crossmedia.imgserver.serving.heads import KEPT_PER_RUN, MAX_HEAD_BYTES, Heads
from crossmedia.imgserver.serving.service import ImageService, ServiceConfig
from crossmedia.imgserver.shards import SHARDS, owners, shards_of
from crossmedia.imgserver.storage.store import Store
from crossmedia.imgserver.vision.photo_source import PhotoSource
from crossmedia.imgserver.wire import GET_HEAD_GRADIENT
from crossmedia.service.callers import Caller
from crossmedia.v1 import image_server_pb2 as pb

SPEC = HeadSpec("learned", (1280, 24, 12))


def head_of(seed: int, spec: HeadSpec = SPEC) -> Head:
    torch.manual_seed(seed)
    return Head(spec)


SHAPES = {name: tuple(weight.shape) for name, weight in head_of(0).named_parameters()}


@pytest.fixture
def client(service: ImageService) -> ImageClient:
    return ImageClient(LocalTransport(service), dtype="float32")


def backbone(client: ImageClient) -> str:
    return client.info().backbone


def put_block(client: ImageClient, version: str, block: bytes, run: str = "run") -> None:
    put_head(client, run, HeadState(version, block), Deadline.after(30))


def gradient(client: ImageClient, head: Head, asked: Any, d: Any) -> dict[str, Any]:
    state = HeadState(head.version(backbone(client)), head.to_bytes())
    return head_gradient(client, state, asked, d, Deadline.after(30))[0]


def put(client: ImageClient, head: Head, run: str = "run") -> str:
    version = head.version(backbone(client))
    put_block(client, version, head.to_bytes(), run)
    return version


def ids(*numbers: int) -> np.ndarray[Any, Any]:
    return np.array(numbers, dtype=np.int64)


def test_features_are_served_under_the_version_of_their_backbone(client: ImageClient) -> None:
    info = client.info()
    found = client.get(ids(1, 2, 150), version=info.backbone)  # 150 is in the catalogue and not embedded yet
    assert found.values.shape == (3, info.feature_dim) == (3, 1280)
    assert found.ok.all()
    assert found.version == info.backbone
    vectors = client.get(ids(1, 2, 150))
    assert vectors.version == info.version != info.backbone


def test_vectors_and_gradient_of_a_head_are_those_of_torch(client: ImageClient) -> None:
    head = head_of(1)
    version = put(client, head)
    asked = ids(5, 7, 200, 9999)  # 200 has to be embedded first, 9999 does not exist
    found = client.get(asked, version=version)
    features = torch.from_numpy(client.get(asked, version=backbone(client)).values)
    expected = head(features)
    assert found.status.tolist() == [Status.OK] * 3 + [Status.NOT_FOUND]
    assert found.version == version
    assert found.values[:3] == pytest.approx(expected[:3].detach().numpy(), abs=1e-6)
    assert not found.values[3].any()
    d = np.random.default_rng(0).normal(size=(4, 12)).astype(np.float32)
    d[3] = 0
    expected.backward(torch.from_numpy(d))
    first = gradient(client, head, asked, d)
    again = gradient(client, head, asked, d)  # now from the features: the forward pass was used up
    for name, weight in head.named_parameters():
        assert weight.grad is not None
        assert np.allclose(first[name], weight.grad, atol=1e-5)
        assert np.allclose(again[name], first[name], atol=1e-6)


@pytest.mark.parametrize("rows", [None, 2])
def test_a_call_in_blocks_is_the_same(client: ImageClient, rows: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    from crossmedia.imgserver.serving import learning

    head = head_of(2)
    version, asked = put(client, head), ids(*range(7))
    d = np.ones((7, 12), np.float32)
    expected = client.get(asked, version=version).values, gradient(client, head, asked, d)
    if rows:
        monkeypatch.setattr(learning, "BLOCK_ROWS", rows)
    monkeypatch.setattr(learning, "MAX_KEPT_BYTES", 0)
    assert client.get(asked, version=version).values == pytest.approx(expected[0], abs=1e-6)
    found = gradient(client, head, asked, d)
    assert all(np.allclose(found[name], expected[1][name], atol=1e-5) for name in found)


def bad_heads() -> dict[str, tuple[Any, str]]:
    nan, other = head_of(1), head_of(1)
    with torch.no_grad():
        nan.linear[1].bias[3] = torch.nan
    spec = SPEC.canonical()
    state = {name: value.contiguous() for name, value in other.state_dict().items()}
    wide = save({"x": torch.zeros(1)}, metadata={"spec": HeadSpec("learned", (1280, 10**9, 12)).canonical()})
    return {
        "nan": (nan.to_bytes(), "not finite"),
        "pickle": (pickle.dumps(state), "no head"),
        "nothing": (b"", "no head"),
        "no spec": (save(state), "no head"),
        "a weight is missing": (save({"layers.0.weight": state["layers.0.weight"]}, {"spec": spec}), "no head"),
        "spec without weights": (wide, "need"),
        "activation": (save(state, {"spec": spec.replace("prelu", "eval")}), "activation"),
        "name": (save(state, {"spec": spec.replace("learned", "../../x")}), "cannot be named"),
        "other features": (head_of(1, HeadSpec("learned", (7, 12))).to_bytes(), "takes 7 numbers"),
    }


@pytest.mark.parametrize("what", list(bad_heads()))
def test_a_broken_head_is_refused(client: ImageClient, what: str) -> None:
    block, words = bad_heads()[what]
    try:
        version = Head.from_bytes(block).version(backbone(client))
    except BadInput:
        version = f"{backbone(client)}+learned@0/12"
    with pytest.raises((BadInput, InvalidRequest), match=words):
        put_block(client, version, block)
    assert client.info().contents.heads_held == 0


def test_a_head_must_be_what_it_is_put_as(client: ImageClient) -> None:
    block = head_of(1).to_bytes()
    for version, words in (
        (head_of(2).version(backbone(client)), "its weights are those of"),
        (head_of(1).version("other@123456789012"), "does not hold"),
        ("", "its weights are those of"),
    ):
        with pytest.raises((InvalidRequest, VersionMismatch), match=words):
            put_block(client, version, block)
    for run in ("", "../x", "a" * 65):
        with pytest.raises(InvalidRequest, match="cannot be named"):
            put_block(client, head_of(1).version(backbone(client)), block, run)
    with pytest.raises(InvalidRequest, match="the limit is"):
        put_block(client, head_of(1).version(backbone(client)), b"0" * (MAX_HEAD_BYTES + 1))


def test_gradients_are_checked(service: ImageService, client: ImageClient) -> None:
    version = put(client, head_of(1))
    asked, d = ids(3, 4, 9999), np.zeros((3, 12), np.float32)
    client.get(asked, version=version)
    for value in (np.nan, np.inf):
        wrong = d.copy()
        wrong[1, 5] = value
        with pytest.raises(InvalidRequest, match=f"of image 4 is {value}"):
            gradient(client, head_of(1), asked, wrong)
    wrong = d.copy()
    wrong[2, 0] = 1
    for _ in range(2):  # with the forward pass kept, and from the features
        with pytest.raises(InvalidRequest, match="image 9999, which has no feature"):
            gradient(client, head_of(1), asked, wrong)
    request = pb.GetHeadGradientRequest(version=version, image_ids=ids(1).tobytes(), d_vectors=b"0" * 8)
    with pytest.raises(InvalidRequest, match="d_vectors has 8 bytes"):
        service.answer(GET_HEAD_GRADIENT, request, 1e12)
    with pytest.raises(VersionMismatch, match="put it again"):
        gradient(client, head_of(9), asked, d)


def test_the_latest_heads_of_a_run_are_held(client: ImageClient) -> None:
    versions = [put(client, head_of(seed)) for seed in range(KEPT_PER_RUN + 1)]
    other = put(client, head_of(100), run="other")
    with pytest.raises(VersionMismatch):
        client.get(ids(1), version=versions[0])
    for version in (*versions[1:], other):
        assert client.get(ids(1), version=version).version == version
    assert client.info().contents.heads_held == KEPT_PER_RUN + 1
    assert client.get(ids(1)).version == client.info().version  # who names none gets what is stored


def test_idle_runs_are_forgotten_and_bytes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    held = Heads()
    held.put("a", "v1", head_of(1))
    monkeypatch.setattr(heads_module, "IDLE_S", -1.0)
    held.forget()
    held.put("b", "v2", head_of(2))
    assert held.get("v1") is None
    assert held.get("v2") is not None
    monkeypatch.setattr(heads_module, "IDLE_S", 600.0)
    monkeypatch.setattr(heads_module, "MAX_BYTES", 5 * heads_module._bytes(head_of(1)))
    held.put("b", "v3", head_of(3))
    with pytest.raises(Overloaded):
        held.put("c", "v4", head_of(4))
    assert len(held) == 2


def test_a_head_that_is_busy_keeps_nobody_longer_than_the_deadline(service: ImageService, client: ImageClient) -> None:
    version = put(client, head_of(1))
    with (
        service.live_heads.learning._turns.one(Caller(time.monotonic() + 60)),
        pytest.raises((DeadlineExceeded, ServerUnavailable)),
    ):
        client.get(ids(1), timeout_s=0.2, version=version)
    assert client.get(ids(1), version=version).ok.all()


def test_over_the_wire_the_same_errors_and_numbers(daemon: DaemonProcess) -> None:
    head = head_of(1)
    with HeadServers([daemon.address], "wire", timeout_s=20) as servers, ImageClient(daemon.address) as plain:
        version = head.version(servers.backbone())
        found = servers.vectors(ids(1, 2, 3), version, head.to_bytes())
        features = plain.get(ids(1, 2, 3), version=servers.backbone()).values.astype(np.float32)
        assert found.values == pytest.approx(head(torch.from_numpy(features)).detach().numpy(), abs=1e-6)
        d = np.zeros((3, 12), np.float32)
        d[1, 1] = np.nan
        with pytest.raises(InvalidRequest, match="of image 2 is nan"):
            servers.gradient(ids(1, 2, 3), version, head.to_bytes(), d)
        with pytest.raises(VersionMismatch):
            plain.get(ids(1), version=head_of(77).version(servers.backbone()))
        assert servers.stats.head_bytes_sent == len(head.to_bytes())


def test_a_server_that_lost_a_head_is_given_it_again(service: ImageService) -> None:
    head = head_of(1)
    servers = HeadServers([LocalTransport(service)], "run", timeout_s=10)
    version = head.version(servers.backbone())
    before = servers.vectors(ids(1, 2), version, head.to_bytes()).values
    service.live_heads.heads._runs.clear()
    assert (servers.vectors(ids(1, 2), version, head.to_bytes()).values == before).all()
    service.live_heads.heads._runs.clear()
    assert len(servers.gradient(ids(1, 2), version, head.to_bytes(), np.ones((2, 12), np.float32))) == 1


def test_a_list_of_servers_has_each_once() -> None:
    for servers in ([], ["a:1", "a:1"]):
        with pytest.raises(BadInput, match="each once"):
            HeadServers(servers, "run")


@given(st.lists(st.integers(0, 2**62), min_size=1, max_size=50), st.integers(1, 5))
def test_every_image_has_one_owner_whatever_the_order_of_the_list(numbers: list[int], n: int) -> None:
    servers = [f"server-{i}:7070" for i in range(n)]
    shards = shards_of(np.array(numbers))
    assert ((shards >= 0) & (shards < SHARDS)).all()
    forwards = [servers[i] for i in owners(servers)[shards]]
    backwards = [servers[::-1][i] for i in owners(servers[::-1])[shards]]
    assert forwards == backwards


def test_a_server_that_joins_takes_only_its_share() -> None:
    before, after = owners(["a", "b", "c"]), owners(["a", "b", "c", "d"])
    moved = before != after
    assert (after[moved] == 3).all()
    assert 0.15 < moved.mean() < 0.35
    counts = np.bincount(shards_of(np.arange(0, 10**6, 1024)), minlength=SHARDS)
    assert counts.max() < 10  # a pattern in the ids makes no shard larger


def features(n: int = 300, width: int = 40) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(0)
    return (rng.normal(size=(n, width)) * np.linspace(3, 0.1, width) + 2).astype(np.float32)


def test_a_head_starts_as_the_pca_of_its_features() -> None:
    head = new_head(HeadSpec("learned", (40, 20, 10, 6)), features(), "pca")
    vectors = head(torch.from_numpy(features())).detach().numpy()
    expected = fit_pca(features(), 20).apply_numpy(features())[:, :6]
    assert vectors == pytest.approx(expected, abs=1e-4)


def test_few_features_start_as_wide_a_pca_as_there_is() -> None:
    few = features(15)
    head = new_head(HeadSpec("learned", (40, 20, 10, 6)), few, "pca")
    vectors = head(torch.from_numpy(few)).detach().numpy()
    assert vectors == pytest.approx(fit_pca(few, 14).apply_numpy(few)[:, :6], abs=1e-4)
    vectors = head(torch.from_numpy(few)).square().mean()
    vectors.backward()
    assert head.linear[0].weight.grad is not None
    wide = new_head(HeadSpec("learned", (40, 60, 10)), features(), "pca")
    vectors = wide(torch.from_numpy(features())).detach().numpy()
    assert vectors == pytest.approx(fit_pca(features(), 40).apply_numpy(features())[:, :10], abs=1e-4)
    with pytest.raises(BadInput, match="the training rows lead to 6"):
        new_head(HeadSpec("learned", (40, 20, 10, 6)), features(6), "pca")


def test_a_random_start_sees_features_of_mean_0_and_scale_1() -> None:
    torch.manual_seed(3)
    spec = HeadSpec("learned", (40, 20, 6), normalisation="layer", activation="relu")
    head = new_head(spec, features(), "random")
    torch.manual_seed(3)
    plain = Head(spec)
    values = features().astype(np.float64)
    centred = values - values.mean(axis=0)
    standard = torch.from_numpy(centred / np.sqrt(np.square(centred).mean())).float()
    assert torch.allclose(head(torch.from_numpy(features())), plain(standard), atol=1e-4)


def test_a_spec_survives_its_file_and_old_heads_keep_their_version() -> None:
    for normalisation in ("none", "layer"):
        head = Head(HeadSpec("learned", (8, 6, 4), "relu", normalisation), "net@1")
        again = Head.from_bytes(head.to_bytes())
        assert (again.spec, again.digest(), again.backbone) == (head.spec, head.digest(), "net@1")
    # What was written before there was a normalisation.
    assert HeadSpec("pca", (8, 4)).canonical() == '{"activation":"prelu","name":"pca","widths":[8,4]}'


@pytest.mark.parametrize(
    ("spec", "start", "words"),
    [
        ((8, 0), "pca", "above 0"),
        ((8,), "pca", "two or more"),
        ((8, 3, 4), "pca", "narrower"),
        ((8, 4), "zeros", "does not start"),
    ],
)
def test_heads_that_make_no_sense(spec: tuple[int, ...], start: str, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        new_head(HeadSpec("learned", spec), features(width=8), start)


def test_a_learned_head_becomes_a_version(store: Path, photos: Path, tmp_path: Path) -> None:
    before = run_command("imgserver", "versions", f"--store={store}", "--json").stdout
    with ImageClient(LocalTransport(ImageService(ServiceConfig(store)))) as client:
        name = backbone(client)
        values = client.get(ids(*range(100)), version=name).values
    head = head_of(4)
    head.backbone = name
    (tmp_path / "head.safetensors").write_bytes(head.to_bytes())
    command = ("imgserver", "precompute", f"--store={store}", f"--head={tmp_path / 'head.safetensors'}")
    said = run_command(*command).stdout
    version = head.version(name)
    assert version in said
    assert "100 vectors" in said
    assert run_command(*command).stdout.splitlines()[1:] == said.splitlines()[1:]  # again: nothing else happens
    assert '"active": true' in before
    run_command("imgserver", "versions", f"--store={store}", f"--activate={version}")
    with ImageClient(LocalTransport(ImageService(ServiceConfig(store, PhotoSource(str(photos)))))) as client:
        found = client.get(ids(*range(100), 200), timeout_s=60)  # 200: embedded now, by the learned head
        assert found.version == version
        assert found.values[:100] == pytest.approx(head.apply_numpy(values).astype(np.float16), abs=1e-3)
        assert found.ok.all()
    head.backbone = "other@1"
    (tmp_path / "head.safetensors").write_bytes(head.to_bytes())
    refused = run_command(*command, check=False)
    assert refused.returncode == 2
    assert "other@1" in refused.stderr


def test_vectors_that_float16_cannot_hold_are_not_stored(store: Path) -> None:
    with closing(Store(store)) as opened:
        (features,) = opened.index.spaces("feature")
        head = Head(HeadSpec("learned", (1280, 4)), features.name)
        with torch.no_grad():
            head.linear[0].bias[2] = 1e5
        with pytest.raises(BadInput, match=r"100 of the vectors of .*\+learned@.* reach 1e\+05"):
            apply_head(opened, head)
        assert not len(opened.index.load(head.version(features.name))[0])


def test_new_photos_keep_a_learned_head(store: Path, photos: Path, tmp_path: Path) -> None:
    head = head_of(4)
    (tmp_path / "head.safetensors").write_bytes(head.to_bytes())
    run_command("imgserver", "precompute", f"--store={store}", f"--head={tmp_path / 'head.safetensors'}")
    with ImageClient(LocalTransport(ImageService(ServiceConfig(store)))) as client:
        version = head.version(backbone(client))
    run_command("imgserver", "versions", f"--store={store}", f"--activate={version}")
    said = run_command("imgserver", "precompute", f"--store={store}", f"--catalogue={photos}").stdout
    assert f"active version: {version}" in said
    with ImageClient(LocalTransport(ImageService(ServiceConfig(store)))) as client:
        assert client.get(ids(242)).version == version
