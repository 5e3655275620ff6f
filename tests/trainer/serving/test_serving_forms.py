"""Native code and ONNX behind the scoring server: the numbers are those of the same model as data."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import run_command
from oip import call, channel, infer, output
from scoring_server import ScoringProcess, Shop

CANDIDATES = [f"i{n}" for n in range(60)]
USER: dict[str, list[Any]] = {"user_id": ["u1"], "hist_action": ["clicked"] * 2, "hist_time": [1000, 1001]}
REQUESTS = [
    infer(USER | {"hist_item_id": ["i3", "i4"], "item_id": CANDIDATES}, now=2000),
    infer({"user_id": ["u2"], "item_id": CANDIDATES[:1]}, now=2000),
    infer({"item_id": ["no such item", *CANDIDATES[40:]]}, now=2000),
]


def scores(address: str) -> list[np.ndarray[Any, Any]]:
    with channel(address) as opened:
        return [output(call(opened, "ModelInfer", request), "score") for request in REQUESTS]


@pytest.mark.slow
def test_native_code_is_served_where_it_is_trusted_and_onnx_takes_its_place(
    shop: Shop, scoring: ScoringProcess, tmp_path: Path
) -> None:
    done = {
        form: run_command("trainer", "export", str(shop.run), f"--format={form}", f"--out={tmp_path / name}", "--json")
        for form, name in {"aoti": "din.pt2", "onnx": "other.onnx"}.items()
    }
    assert "mismatch" not in done["aoti"].stderr, "of the vectors of this CPU, which are wider than those of the file"
    told = {form: json.loads(export.stdout) for form, export in done.items()}
    native = (str(tmp_path / "din.pt2"), f"--server={shop.images.address}")
    refused = run_command("trainer", "serve", *native, f"--folder={tmp_path / 'none'}", "--port=0", check=False)
    assert (refused.returncode, f"--trust-native {told['aoti']['sha256']};" in refused.stderr) == (2, True)
    server = ScoringProcess(tmp_path / "serving", *native, f"--trust-native={told['aoti']['sha256']}")
    try:
        expected = scores(scoring.address)
        for found, wanted in zip(scores(server.address), expected, strict=True):
            assert found == pytest.approx(wanted, abs=1e-5)
        switched = run_command("trainer", "switch", "other.onnx", f"--folder={server.folder}", "--json")
        roles = {one["version"]: one["role"] for one in json.loads(switched.stdout)}
        assert roles[told["onnx"]["sha256"][:12]].startswith("active. On 3 recorded requests, 82 candidates: ")
        assert roles[told["aoti"]["sha256"][:12]] == "previous"
        for found, wanted in zip(scores(server.address), expected, strict=True):
            assert found == pytest.approx(wanted, abs=1e-5)
        run_command("trainer", "switch", "--rollback", f"--folder={server.folder}")
        os.truncate(tmp_path / "din.pt2", 100)  # what is loaded needs the file no more
        assert scores(server.address)[1] == pytest.approx(expected[1], abs=1e-5)
    finally:
        server.stop()
