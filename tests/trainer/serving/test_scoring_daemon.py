"""The scoring server as its clients meet it: Triton's client, gRPC, limits, health, metrics, and its end."""

from __future__ import annotations

import os
import signal
import time
import urllib.request
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import DaemonProcess, copy_store, run_command, soon
from oip import add, call, channel, infer, output
from scoring_server import ScoringProcess, Shop

from crossmedia.features.reading.samples import Samples
from crossmedia.inference import grpc_predict_v2_pb2 as pb
from crossmedia.status import AWAY, CACHED, UNKNOWN_ITEM, Status
from crossmedia.trainer.scorer import Scorer

USER: dict[str, list[Any]] = {
    "user_id": ["u1"],
    "hist_item_id": ["i3", "i4"],
    "hist_action": ["clicked"] * 2,
    "hist_time": [1000, 1001],
}


def test_tritons_client_calls_it_unchanged(scoring: ScoringProcess, shop: Shop) -> None:
    triton: Any = pytest.importorskip("tritonclient.grpc")

    def tensor(name: str, values: list[Any], datatype: str) -> Any:
        array = np.array(values, dtype=object if datatype == "BYTES" else None)
        found = triton.InferInput(name, array.shape, datatype)
        found.set_data_from_numpy(array)
        return found

    client = triton.InferenceServerClient(scoring.address)
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("din")
    assert client.get_server_metadata().name == "crossmedia"
    told = client.get_model_metadata("din", as_json=True)
    assert {"name": "item_id", "datatype": "BYTES", "shape": ["-1"]} in told["inputs"]
    assert [one["name"] for one in told["outputs"]] == ["score", "status"]
    types = {"hist_time": "INT64"}
    inputs = [tensor(name, values, types.get(name, "BYTES")) for name, values in USER.items()]
    inputs.append(tensor("item_id", ["i1", "i2", "i47", "i55", "no such item"], "BYTES"))
    wanted = [triton.InferRequestedOutput("status"), triton.InferRequestedOutput("score")]
    reply = client.infer("din", inputs, request_id="order-4711", outputs=wanted, parameters={"now": 2000})
    assert reply.get_response().id == "order-4711"
    assert reply.get_response().model_version == told["versions"][0]
    assert [one.name for one in reply.get_response().outputs] == ["status", "score"]
    scorer = Scorer.load(shop.exported, server=shop.images.address, items="")
    items = {"item_id": ["i1", "i2", "i47", "i55", "no such item"]}
    expected = scorer.answer({**USER, "user_id": "u1"}, items, 2000)
    assert reply.as_numpy("score") == pytest.approx(expected.probabilities[:, 0], abs=1e-6)
    # i47 has an image without a vector, i55 no image, and the last is not in the table.
    ok, gone = int(Status.OK), int(Status.NOT_FOUND)
    assert reply.as_numpy("status").tolist() == [ok, ok, gone, gone, UNKNOWN_ITEM]


def test_served_scores_are_those_of_the_run(scoring: ScoringProcess, shop: Shop) -> None:
    """Each test row by the ids of its items alone, beside what the run predicted for it."""
    names = pq.read_table(shop.samples / "items.parquet")["raw_item_id"].to_pylist()
    samples = Samples(shop.samples)
    users = samples.frame("test", ["raw_user_id"])["raw_user_id"].to_pylist()
    actions = samples.vocabulary.values["action"].to_pylist()
    predicted = pq.read_table(shop.run / "predictions.parquet")["probability"].to_numpy()
    served: list[float] = []
    (batch,) = samples.batches("test", 10_000)
    with channel(scoring.address) as opened:
        for row in range(len(batch)):
            part = slice(batch.history.offsets[row], batch.history.offsets[row + 1])
            inputs: dict[str, list[Any]] = {
                "user_id": [users[row]],
                "item_id": [names[batch.items.rows[batch.target[row]]]],
                "hist_item_id": [names[batch.items.rows[item]] for item in batch.history.values[part]],
                "hist_action": [actions[place - 1] for place in batch.action[part]],
                "hist_time": (batch.timestamp[row] - batch.history_age_s[part]).tolist(),
            }
            given = {name: values for name, values in inputs.items() if values}
            reply = call(opened, "ModelInfer", infer(given, now=int(batch.timestamp[row])))
            served.append(float(output(reply, "score")[0]))
    assert len(served) > 200
    assert np.abs(np.array(served) - predicted).max() < 1e-6


def test_by_id_alone_and_by_raw_values_are_the_same(scoring: ScoringProcess) -> None:
    raw = USER | {"hist_image_id": [3, 4], "item_id": ["i1", "i9"], "image_id": [1, 9]}
    with channel(scoring.address) as opened:
        by_values = call(opened, "ModelInfer", infer(raw, now=2000))
        by_id = call(opened, "ModelInfer", infer(USER | {"item_id": ["i1", "i9"]}, now=2000))
        lists = infer(USER | {"item_id": ["i1", "i9"]}, now=2000)
        add(lists, "image_id", [1, -1, -1, 9], shape=[2, 2])  # each cell a list, padded
        padded = call(opened, "ModelInfer", lists)
        typed = pb.ModelInferRequest(model_name="din")
        item = typed.inputs.add(name="item_id", datatype="BYTES", shape=[2])
        item.contents.bytes_contents.extend([b"i1", b"i9"])
        image = typed.inputs.add(name="image_id", datatype="INT32", shape=[2])
        image.contents.int_contents.extend([1, 9])
        user = typed.inputs.add(name="user_id", datatype="BYTES", shape=[1])
        user.contents.bytes_contents.append(b"u1")
        by_contents = call(opened, "ModelInfer", typed)
        without = {name: raw[name] for name in ("user_id", "item_id", "image_id")}
        by_raw = call(opened, "ModelInfer", infer(without))
    assert (output(by_values, "score") == output(by_id, "score")).all()
    assert output(padded, "score") == pytest.approx(output(by_id, "score"), abs=1e-6)
    assert (output(by_contents, "score") == output(by_raw, "score")).all()
    assert output(by_id, "status").tolist() == [1, 1]


def test_its_health_metrics_and_request_ids(scoring: ScoringProcess) -> None:
    assert "healthy" in run_command("trainer", "health", f"--folder={scoring.folder}").stdout
    with channel(scoring.address) as opened:
        call(opened, "ModelInfer", infer({"item_id": ["i1", "i55"]}))
        ask: Any = opened.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        data = infer({"item_id": ["i1"]}).SerializeToString()
        _, made = ask.with_call(data, timeout=10, metadata=(("x-request-id", "mine"),))
        assert ("x-request-id", "mine") in [(key, value) for key, value in made.trailing_metadata()]
    metrics = urllib.request.urlopen(f"http://127.0.0.1:{scoring.metrics_port}/metrics", timeout=10).read().decode()
    for line in (
        'crossmedia_rpc_duration_seconds_count{code="OK",method="ModelInfer"}',
        'crossmedia_score_duration_seconds_count{model="din"',
        'crossmedia_candidates_total{model="din",status="NOT_FOUND"',
        'crossmedia_vectors_away{model="din",space="image"} 0.0',
        'role="active"',
        "crossmedia_queue_items 0.0",
    ):
        assert line in metrics


def test_too_much_at_once_is_refused_with_a_hint(shop: Shop, tmp_path: Path) -> None:
    server = ScoringProcess(
        tmp_path / "serving",
        *(str(shop.exported), f"--server={shop.images.address}", "--threads=1", "--max-pending=400"),
    )
    request = infer(USER | {"item_id": [f"i{n % 60}" for n in range(300)]}, now=2000).SerializeToString()
    codes: list[str] = []
    hints: list[str] = []
    with channel(server.address) as opened:
        with pytest.raises(grpc.RpcError) as caught:
            call(opened, "ModelInfer", infer({"item_id": ["i1"] * 301}))
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        ask: Any = opened.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        futures = [ask.future(request, timeout=20) for _ in range(40)]
        for future in futures:
            try:
                future.result()
                codes.append("OK")
            except grpc.RpcError as error:
                codes.append(error.code().name)
                metadata: Any = error.trailing_metadata()
                hints.append(dict(metadata)["retry-after-ms"])
    server.stop()
    assert set(codes) == {"OK", "RESOURCE_EXHAUSTED"}
    assert len(hints) == codes.count("RESOURCE_EXHAUSTED")
    assert all(hint.isdigit() for hint in hints)


def test_a_deadline_is_looked_at_before_the_work(scoring: ScoringProcess) -> None:
    with channel(scoring.address) as opened, pytest.raises(grpc.RpcError) as caught:
        call(opened, "ModelInfer", infer({"item_id": ["i1"]}), timeout=0.000001)
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED


def test_it_drains(shop: Shop, tmp_path: Path) -> None:
    """SIGTERM while calls are under way: none of them fails, and the process ends."""
    server = ScoringProcess(
        tmp_path / "serving",
        *(str(shop.exported), f"--server={shop.images.address}", "--threads=1", "--max-wait-s=60"),
    )
    request = infer(USER | {"item_id": [f"i{n % 60}" for n in range(400)]}, now=2000).SerializeToString()
    with channel(server.address) as opened:
        ask: Any = opened.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        ask(request, timeout=20)
        futures = [ask.future(request, timeout=20) for _ in range(20)]
        futures[0].result()  # by one connection: what was sent right behind it is under way, on a busy machine, too
        os.kill(server.pid, signal.SIGTERM)
        replies = [pb.ModelInferResponse.FromString(future.result()) for future in futures]
    assert all(len(output(reply, "score")) == 400 for reply in replies)
    assert soon(lambda: not Path(f"/proc/{server.pid}").exists() or "stopped" in server.log, 10)


def test_a_folder_has_one_server(scoring: ScoringProcess, shop: Shop) -> None:
    again = run_command("trainer", "serve", str(shop.exported), f"--folder={scoring.folder}", "--port=0", check=False)
    assert again.returncode == 2
    assert "already served by process" in again.stderr


def test_items_of_a_file_are_followed(shop: Shop, tmp_path: Path) -> None:
    file = tmp_path / "items.parquet"
    pq.write_table(pa.table({"item_id": ["new"], "image_id": [1]}), file)
    server = ScoringProcess(
        tmp_path / "serving", str(shop.exported), f"--server={shop.images.address}", f"--items={file}"
    )
    with channel(server.address) as opened:

        def status() -> list[int]:
            found: list[int] = output(call(opened, "ModelInfer", infer({"item_id": ["new", "i2"]})), "status").tolist()
            return found

        assert status() == [Status.OK, UNKNOWN_ITEM]
        part = tmp_path / "part"
        pq.write_table(pa.table({"item_id": ["i2"], "image_id": [2]}), part)
        os.replace(part, file)
        assert soon(lambda: status() == [UNKNOWN_ITEM, Status.OK])
        part.write_bytes(b"no such thing")
        os.replace(part, file)
        assert soon(lambda: "the change is not taken" in server.log)
        assert status() == [UNKNOWN_ITEM, Status.OK]
    server.stop()


@pytest.mark.parametrize("cache", ["0", "1MB"])
def test_scores_come_while_the_image_server_is_gone(shop: Shop, tmp_path: Path, cache: str) -> None:
    """From vectors that were kept, and without any, and as before when it is back."""
    store = copy_store(shop.images.store, tmp_path / "store")
    images = DaemonProcess(store, None)
    port = images.address.rpartition(":")[2]
    server = ScoringProcess(
        tmp_path / "serving", str(shop.exported), f"--server={images.address}", "--metrics-port=0", f"--cache={cache}"
    )
    kept = infer(USER | {"item_id": ["i1", "i2", "i55"]}, now=2000)
    new = infer(USER | {"item_id": ["i8", "i9"]}, now=2000)

    def asked(request: Any = kept) -> tuple[list[float], list[int]]:
        reply = call(opened, "ModelInfer", request)
        return output(reply, "score").tolist(), output(reply, "status").tolist()

    def metric(name: str) -> str:
        url = f"http://127.0.0.1:{server.metrics_port}/metrics"
        lines = urllib.request.urlopen(url, timeout=10).read().decode().splitlines()
        return next((line for line in lines if line.startswith(name)), "")

    with channel(server.address) as opened:
        before, status = asked()
        assert status == [Status.OK, Status.OK, Status.NOT_FOUND]
        images.stop()
        assert soon(lambda: asked()[1] != status, 5), "a cache asks once a second whether it still holds"
        without, status = asked()
        assert status == ([CACHED, CACHED, Status.NOT_FOUND] if cache != "0" else [AWAY, AWAY, Status.NOT_FOUND])
        assert (without == before) == (cache != "0")
        assert np.isfinite(without).all()
        started = time.monotonic()
        scores, status = asked(new)
        assert status == [AWAY, AWAY]
        assert np.isfinite(scores).all()
        assert time.monotonic() - started < 0.4, "who is known to be away is not waited for"
        assert metric("crossmedia_vectors_away").endswith(" 1.0")
        assert metric('crossmedia_candidates_total{model="din",status="AWAY"') != ""
        assert "healthy" in run_command("trainer", "health", f"--folder={server.folder}").stdout
        images = DaemonProcess(store, None, f"--port={port}")
        assert soon(lambda: asked(new)[1] == [Status.OK, Status.OK], 20)
        assert soon(lambda: asked() == (before, [Status.OK, Status.OK, Status.NOT_FOUND]), 10)
        assert metric("crossmedia_vectors_away").endswith(" 0.0")
    server.stop()
    images.stop()


def test_reasons_come_of_concepts_and_are_refused_by_others(scoring: ScoringProcess) -> None:
    with channel(scoring.address) as opened, pytest.raises(grpc.RpcError) as caught:
        call(opened, "ModelInfer", infer({"item_id": ["i1"]}, reasons=2))
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "reasons" in str(caught.value.details())
