"""Logs: a line can be found by the id of the request that the client names; spans of client and server join."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from conftest import DaemonProcess, copy_store, free_addresses

from crossmedia.errors import InvalidRequest, VersionMismatch
from crossmedia.imgserver.cli import imgserver
from crossmedia.imgserver.client import ImageClient, Status
from crossmedia.imgserver.serving.grpc_server import image_server
from crossmedia.imgserver.serving.service import ImageService, ServiceConfig
from crossmedia.imgserver.vision.photo_source import PhotoSource
from crossmedia.logs import REQUEST_ID_KEY, Sparingly, request_id_of
from crossmedia.service import grpc_server
from crossmedia.service.grpc_server import GrpcServer
from crossmedia.v1 import image_server_pb2 as pb
from crossmedia.v1 import image_server_pb2_grpc as pb_grpc


def log_lines(store: Path) -> list[str]:
    return (store / "daemon.log").read_text().splitlines()


@pytest.mark.parametrize("form", ["json", "text"])
def test_an_error_is_found_in_the_log_by_the_id_that_the_client_names(store: Path, form: str) -> None:
    process = DaemonProcess(store, None, f"--log-format={form}")
    try:
        with ImageClient(process.address, version="none@0+pca@0/16") as client:
            with pytest.raises(VersionMismatch) as raised:
                client.get([1])
            with pytest.raises(VersionMismatch) as again:
                client.get([1])
    finally:
        process.stop()
    assert re.search(r"\(request [0-9a-f]{32}\)$", str(raised.value))
    assert raised.value.request_id in str(raised.value)
    assert raised.value.request_id != again.value.request_id
    (line,) = [line for line in log_lines(store) if raised.value.request_id in line]
    if form == "text":
        assert "WARNING" in line
        assert "GetVectors failed: VersionMismatch: Vectors of none@0+pca@0/16 were asked for" in line
        return
    lines = [json.loads(line) for line in log_lines(store)]
    assert {"time", "level", "logger", "message"} <= set(lines[-1])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", lines[-1]["time"])
    found = json.loads(line)
    assert found["request_id"] == raised.value.request_id
    assert found["level"] == "WARNING"
    assert found["logger"] == "crossmedia.service.grpc_server"
    assert found["message"].startswith("GetVectors failed: VersionMismatch: ")
    assert any(entry.get("message", "").startswith("serving efficientnet") for entry in lines)
    assert all("request_id" not in entry for entry in lines if entry.get("message") == "stopped")


@pytest.fixture
def server(graph_cache: Path, tmp_path: Path) -> Iterator[GrpcServer]:
    """A server in this process, so that what it logs can be read here."""
    service = ImageService(ServiceConfig(copy_store(graph_cache, tmp_path / "store")))
    made = image_server(service, "127.0.0.1:0")
    made.start()
    yield made
    made.stop(0)
    service.close()


def trailing(server: GrpcServer, *metadata: tuple[str, str]) -> dict[str, str]:
    with grpc.insecure_channel(server.address) as channel:
        _, call = pb_grpc.ImageServiceStub(channel).GetInfo.with_call(pb.GetInfoRequest(), metadata=metadata)
        return {key: str(value) for key, value in call.trailing_metadata()}


def test_the_id_comes_back_and_one_is_made_where_none_is_fit_for_a_log(server: GrpcServer) -> None:
    assert trailing(server, (REQUEST_ID_KEY, "order:4711-a"))[REQUEST_ID_KEY] == "order:4711-a"
    made = trailing(server)[REQUEST_ID_KEY]
    assert re.fullmatch("[0-9a-f]{32}", made)
    assert trailing(server)[REQUEST_ID_KEY] != made
    for unfit in ("x" * 129, 'a"b', "a b", ""):
        assert re.fullmatch("[0-9a-f]{32}", trailing(server, (REQUEST_ID_KEY, unfit))[REQUEST_ID_KEY])
    assert request_id_of([(REQUEST_ID_KEY, b"bytes")]) != "bytes"


def test_slow_calls_are_logged_with_their_id(
    server: GrpcServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    trailing(server, (REQUEST_ID_KEY, "quick"))
    assert "took" not in caplog.text
    monkeypatch.setattr(grpc_server, "SLOW_CALL_S", 0.0)
    from crossmedia import logs

    caplog.handler.setFormatter(logs._JsonLines())
    trailing(server, (REQUEST_ID_KEY, "slow"))
    told = [json.loads(line) for line in caplog.text.splitlines()]
    (line,) = [line for line in told if "GetInfo took" in line["message"]]
    assert line["request_id"] == "slow"


def test_what_nobody_foresaw_is_logged_with_trace_and_id(
    server: GrpcServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from crossmedia import logs

    caplog.handler.setFormatter(logs._JsonLines())
    monkeypatch.setattr(ImageService, "get_info", lambda self: 1 / 0)
    with pytest.raises(grpc.RpcError) as raised:
        trailing(server, (REQUEST_ID_KEY, "bug"))
    metadata: Any = raised.value.trailing_metadata()
    assert dict(metadata)[REQUEST_ID_KEY] == "bug"
    (line,) = [json.loads(line) for line in caplog.text.splitlines() if "a call failed" in line]
    assert line["request_id"] == "bug"
    assert "ZeroDivisionError" in line["exception"]


def test_a_storm_of_failures_does_not_fill_the_log(server: GrpcServer, caplog: pytest.LogCaptureFixture) -> None:
    with ImageClient(server.address) as client, caplog.at_level(logging.WARNING):
        for _ in range(200):
            with pytest.raises(InvalidRequest):
                client.thumbnails([1], max_side=10_000)
    lines = [record for record in caplog.records if "GetThumbnails failed" in record.getMessage()]
    assert 10 <= len(lines) < 200
    sparing = Sparingly(a_second=2)
    assert [sparing.allows("a") for _ in range(4)].count(True) in (2, 4)  # 4: a second ended meanwhile
    assert sparing.allows("b")


def test_a_caller_forges_no_lines_and_fills_no_disk(server: GrpcServer, caplog: pytest.LogCaptureFixture) -> None:
    from crossmedia import logs

    caplog.handler.setFormatter(logs._TextLines(logs.TEXT))
    forged = "2026-01-01 00:00:00,000 INFO crossmedia.service.process: stopped"
    for version in (f"x\n{forged}", f"x\r{forged}", "𝄞" * 500_000):
        with ImageClient(server.address, version=version, timeout_s=5) as client, pytest.raises(VersionMismatch):
            client.get([1])
    failed = [line for line in caplog.text.splitlines() if "GetVectors failed" in line]
    assert len(failed) == 3
    assert not any(line.startswith("2026-01-01") for line in caplog.text.splitlines())
    assert max(len(line.encode()) for line in failed) < 2000


def test_a_line_about_an_image_names_the_calls_that_wait_for_it(
    graph_cache: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from crossmedia import logs

    caplog.handler.setFormatter(logs._TextLines(logs.TEXT))
    manifest = tmp_path / "manifest.parquet"
    (nobody,) = free_addresses(1)
    pq.write_table(pa.table({"image_id": [500], "uri": [f"http://{nobody}/500.jpg"]}), manifest)
    service = ImageService(
        ServiceConfig(copy_store(graph_cache, tmp_path / "store"), PhotoSource(str(manifest), timeout_s=5))
    )
    server = image_server(service, "127.0.0.1:0")
    server.start()
    try:
        with grpc.insecure_channel(server.address) as channel:
            request = pb.GetVectorsRequest(image_ids=(500).to_bytes(8, "little"))
            ask = pb_grpc.ImageServiceStub(channel).GetVectors
            calls = [ask.future(request, timeout=20, metadata=((REQUEST_ID_KEY, name),)) for name in ("one", "two")]
            assert [call.result().status for call in calls] == [bytes([Status.FAILED])] * 2
    finally:
        server.stop(0)
        service.close()
    lines = [line for line in caplog.text.splitlines() if "image 500 cannot be read" in line]
    assert lines
    named = [re.fullmatch(r".* \[request ([a-z,]+)\]", line) for line in lines]
    assert {name for found in named if found for name in found[1].split(",")} == {"one", "two"}


CLIENT = """
import sys
from opentelemetry import trace
from opentelemetry.instrumentation.grpc import GrpcInstrumentorClient
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
spans, provider = InMemorySpanExporter(), TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(spans))
trace.set_tracer_provider(provider)
GrpcInstrumentorClient().instrument()
from crossmedia.imgserver.client import ImageClient
from crossmedia.errors import CrossMediaError
with trace.get_tracer("job").start_as_current_span("a step"), ImageClient(sys.argv[1]) as client:
    assert client.get([1, 2]).ok.all()
    try:
        client.thumbnails([1], max_side=10_000)
    except CrossMediaError:
        pass
for span in spans.get_finished_spans():
    print(span.name, f"0x{span.context.trace_id:032x}", f"0x{span.context.span_id:016x}")
"""


def console_spans(text: str) -> list[dict[str, object]]:
    """The objects that the console exporter wrote between lines of log."""
    return [json.loads(found) for found in re.findall(r"^\{\n.*?^\}$", text, flags=re.MULTILINE | re.DOTALL)]


def test_the_spans_of_client_and_server_join(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    process = DaemonProcess(store, None, "--otel")
    try:
        done = subprocess.run(
            [sys.executable, "-c", CLIENT, process.address], capture_output=True, text=True, timeout=60
        )
    finally:
        process.stop()
    assert done.returncode == 0, done.stderr
    client = [line.split() for line in done.stdout.splitlines() if line.startswith("/crossmedia")]
    assert {name for name, _, _ in client} >= {"/crossmedia.v1.ImageService/GetVectors"}
    served = {str(span["parent_id"]): span for span in console_spans((store / "daemon.log").read_text())}
    assert len(client) >= 2
    for name, trace_id, span_id in client:
        span = served[span_id]
        assert span["name"] == name
        assert span["context"]["trace_id"] == trace_id  # type: ignore[index]
        assert span["resource"]["attributes"]["service.name"] == "crossmedia-imgserver"  # type: ignore[index]
    failed = [span for span in served.values() if str(span["name"]).endswith("GetThumbnails")]
    assert failed[0]["attributes"]["rpc.grpc.status_code"] == 3  # type: ignore[index]
    assert not any("Health" in str(span["name"]) for span in served.values())


def test_without_the_extra_otel_is_named_and_the_environment_alone_does_nothing(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    done = CliRunner().invoke(imgserver, ["serve", f"--store={store}", "--port=0", "--otel"])
    assert done.exit_code == 2
    assert "crossmedia[otel]" in done.output
    monkeypatch.undo()
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "jaeger")
    done = CliRunner().invoke(imgserver, ["serve", f"--store={store}", "--port=0", "--otel"])
    assert done.exit_code == 2
    assert "OTEL_TRACES_EXPORTER is 'jaeger'" in done.output
    from crossmedia.service import tracing as work

    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    with work.tracing(False) as interceptors:  # the environment alone turns it on
        assert len(interceptors) == 1
    monkeypatch.setattr(work, "find_spec", lambda name: None)
    with work.tracing(False) as interceptors:
        assert interceptors == []


def test_nothing_of_opentelemetry_is_imported_unless_it_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    code = (
        "import sys; from crossmedia.service.tracing import tracing; import crossmedia.imgserver.commands.daemon\n"
        "with tracing(False) as found: assert found == []\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
