"""Scores by Ray Serve: the class in this process, and two replicas on Ray; and what KServe is to start."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT
from scoring_server import Shop

from crossmedia.trainer.commands.serving import serve
from crossmedia.trainer.scorer import Scorer

SCRIPT = ROOT / "examples" / "ray" / "serve.py"
BODY: dict[str, Any] = {"user": {"user_id": "u1"}, "candidates": {"item_id": ["i1", "i55"]}, "now": 2000}


def test_a_replica_scores_as_the_scorer_does(shop: Shop) -> None:
    spec = importlib.util.spec_from_file_location("ray_serve_example", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    replica = module.Scores(str(shop.exported), shop.images.address)
    expected = Scorer.load(shop.exported, server=shop.images.address, items="").answer(
        BODY["user"], BODY["candidates"], 2000
    )
    found = replica.score(BODY)
    assert found["score"] == pytest.approx(expected.probabilities)
    assert found["status"] == [1, 2]
    assert "a column 'x'" in replica.score({"candidates": {"x": [1]}})["error"]
    assert "Give an object" in replica.score([1])["error"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ray_serves_them(shop: Shop, tmp_path: Path) -> None:
    pytest.importorskip("ray.serve", reason="the packages of ray[serve] are not installed")
    command = [sys.executable, str(SCRIPT), str(shop.exported), f"--server={shop.images.address}", "--replicas=1"]
    said = tmp_path / "ray.log"
    with said.open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        end, found = time.monotonic() + 300, None
        while found is None and time.monotonic() < end and process.poll() is None:
            try:
                request = urllib.request.Request("http://localhost:8000", json.dumps(BODY).encode())
                found = json.loads(urllib.request.urlopen(request, timeout=30).read())
            except (urllib.error.URLError, OSError):
                time.sleep(1)
        assert found is not None, said.read_text()
        assert found["status"] == [1, 2]
    finally:
        process.terminate()
        process.wait(60)


def test_kserve_is_given_options_that_exist() -> None:
    found: Any = yaml.safe_load((ROOT / "examples" / "kserve" / "inferenceservice.yaml").read_text())
    (container,) = found["spec"]["predictor"]["containers"]
    words = container["args"]
    assert words[:2] == ["trainer", "serve"]
    known = {name for parameter in serve.params for name in parameter.opts}
    given = {word.partition("=")[0]: word.partition("=")[2] for word in words if word.startswith("--")}
    assert set(given) <= known
    assert str(container["ports"][0]["containerPort"]) == given["--port"]
    assert str(container["readinessProbe"]["httpGet"]["port"]) == given["--rest-port"]
