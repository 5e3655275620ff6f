"""Copies of a scoring server behind gRPC's own round_robin, as docs/serve.md has callers set it: one is killed."""

from __future__ import annotations

import json
import os
import re
import signal
import urllib.request
from pathlib import Path
from typing import Any

import grpc
from conftest import ROOT
from oip import call, infer
from scoring_server import ScoringProcess, Shop

from benchmarks.serving import COPIES

REQUEST = infer({"item_id": ["i1", "i2"]}, now=2000)


def answered(server: ScoringProcess) -> float:
    """Calls that a server has answered well."""
    url = f"http://127.0.0.1:{server.metrics_port}/metrics"
    name = 'crossmedia_rpc_duration_seconds_count{code="OK",method="ModelInfer"}'
    lines = urllib.request.urlopen(url, timeout=10).read().decode().splitlines()
    return next((float(line.split()[-1]) for line in lines if line.startswith(name)), 0.0)


def test_no_call_fails_when_one_of_two_copies_is_killed(scoring: ScoringProcess, shop: Shop, tmp_path: Path) -> None:
    other = ScoringProcess(
        tmp_path / "serving", str(shop.exported), f"--server={shop.images.address}", "--metrics-port=0"
    )
    options = [("grpc.service_config", json.dumps(COPIES))]
    with grpc.insecure_channel(f"ipv4:{scoring.address},{other.address}", options=options) as opened:
        for _ in range(200):
            call(opened, "ModelInfer", REQUEST, timeout=30)
            if answered(other) >= 3:
                break
        before = answered(scoring)
        ask: Any = opened.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        futures = [ask.future(REQUEST.SerializeToString(), timeout=30) for _ in range(20)]
        os.kill(other.pid, signal.SIGKILL)
        futures += [ask.future(REQUEST.SerializeToString(), timeout=30) for _ in range(20)]
        assert [future.code() for future in futures] == [grpc.StatusCode.OK] * 40
        assert answered(scoring) >= before + 20


def test_the_page_tells_callers_the_same() -> None:
    told = re.search(r"```json\n(.*?)```", (ROOT / "docs" / "serve.md").read_text(), re.DOTALL)
    assert told is not None
    assert json.loads(told[1]) == COPIES
