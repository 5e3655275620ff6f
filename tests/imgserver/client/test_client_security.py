"""What a client brings to a secured server, and what it says where something is lacking."""

from __future__ import annotations

import json
import logging
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import DaemonProcess, run_command
from secured import TOKENS, Credentials, private, tls

from crossmedia.config import load_config_file
from crossmedia.environment import CLIENT
from crossmedia.errors import (
    BadInput,
    CrossMediaError,
)
from crossmedia.imgserver.client import ClientSecurity, GrpcTransport, ImageClient


def test_commands_take_security_from_environment_and_file(
    start_daemon: Callable[..., DaemonProcess], credentials: Credentials, tmp_path: Path, photos: Path
) -> None:
    tokens = private(credentials["tokens"], f"all admin {'a' * 32}\n")
    daemon = start_daemon(*tls(credentials), f"--tokens={tokens}", "--host=0.0.0.0")
    settings = {
        "tls-ca": str(credentials.authority.file),
        "tls-name": "localhost",
        "token-file": str(private(credentials["token"], "a" * 32)),
    }
    file, photo = tmp_path / "c.toml", photos / "200.jpg"
    file.write_text("[client]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items()))
    variables = {f"CROSSMEDIA_{key.upper().replace('-', '_')}": value for key, value in settings.items()}
    assert set(variables) <= set(CLIENT.values())
    ways: list[tuple[list[str], dict[str, str]]] = [([], variables), ([f"--config={file}"], {})]
    for options, env in ways:
        for words in (
            ["info", "--json"],
            ["health"],
            ["search", "1", "--timeout-s=5"],
            ["add", str(photo), "--id=4711"],
        ):
            command = [sys.executable, "-m", "crossmedia.imgserver", *options, *words, f"--store={daemon.store}"]
            done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **env}, timeout=60)
            # The store has no index: that is what the server says to somebody whom it answers.
            assert done.returncode == (4 if words[0] == "search" else 0), done.stderr
    file.write_text("[client]\ntls-cart = 'x'\n")
    done = run_command("imgserver", f"--config={file}", "info", check=False)
    assert done.returncode == 2
    assert "'tls-cart' for the client; it takes strings for: tls-ca, tls-cert" in done.stderr
    assert load_config_file(str(file)) == {"client": {"tls-cart": "x"}}


def test_the_doctor_examines_a_server_behind_tls_and_tokens(
    start_daemon: Callable[..., DaemonProcess], credentials: Credentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = private(credentials["tokens"], f"all read {TOKENS['read']}")
    daemon = start_daemon(*tls(credentials), f"--tokens={tokens}", catalogue=None)
    command = ("imgserver", "doctor", f"--store={daemon.store}", f"--server={daemon.address}", "--json")

    def examined() -> dict[str, dict[str, str]]:
        checks: dict[str, dict[str, str]] = json.loads(run_command(*command, check=False).stdout)["checks"]
        return checks

    found = examined()
    assert found["health"]["level"] == found["served"]["level"] == "problem"
    assert "whether it takes TLS" in found["health"]["advice"]
    assert "whether it takes TLS" in found["served"]["found"]
    monkeypatch.setenv("CROSSMEDIA_TLS_CA", str(credentials.authority.file))
    found = examined()
    assert found["health"]["found"] == f"{daemon.address} is SERVING", "health is told without a token"
    assert "CROSSMEDIA_TOKEN_FILE" in found["served"]["found"]
    monkeypatch.setenv("CROSSMEDIA_TOKEN_FILE", str(private(credentials["token"], TOKENS["read"])))
    found = examined()
    assert [name for name, check in found.items() if check["level"] == "problem"] == []
    assert "100 images of efficientnet_lite0@" in found["served"]["found"]
    assert "as in the store" in found["served"]["found"]


def test_a_client_says_what_it_lacks(
    credentials: Credentials, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cases: list[tuple[dict[str, str], str]] = [
        ({"tls_ca": "absent.pem"}, "The certificate absent.pem cannot be read"),
        ({"tls_cert": str(credentials["client.pem"])}, "CROSSMEDIA_TLS_CERT, CROSSMEDIA_TLS_KEY and CROSSMEDIA_TLS_CA"),
        ({"token_file": str(tmp_path / "absent")}, "The token .*absent cannot be read"),
        ({"token_file": str(private(tmp_path / "two", "a b"))}, "must hold one word"),
    ]
    for given_files, message in cases:
        with pytest.raises(BadInput, match=message):
            ImageClient("127.0.0.1:1", timeout_s=1, security=ClientSecurity(**given_files)).info()
    (tmp_path / "two").chmod(0o644)
    with pytest.raises(BadInput, match="can be read by others"):
        ClientSecurity(token_file=str(tmp_path / "two")).token()
    own = ClientSecurity(token_file=str(private(tmp_path / "own", "t" * 32)))
    for address, warned in (("127.0.0.1:1", 0), ("localhost:1,127.0.0.1:2", 0), ("192.0.2.1:1", 1)):
        caplog.clear()
        with caplog.at_level(logging.WARNING), pytest.raises(CrossMediaError):
            ImageClient(address, timeout_s=0.2, security=own).info()
        assert sum("without TLS" in record.message for record in caplog.records) == warned


def test_security_travels_to_other_processes_without_secrets(tmp_path: Path) -> None:
    own = private(tmp_path / "own", "t" * 32)
    packed = pickle.dumps(GrpcTransport("localhost:1", ClientSecurity(token_file=str(own))))
    assert b"tttt" not in packed
    assert pickle.loads(packed).__getstate__()["security"].token_file == str(own)
