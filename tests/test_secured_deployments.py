"""What deploy/ and SECURITY.md say of secured servers is so."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT, DaemonProcess

from crossmedia.environment import CLIENT
from crossmedia.imgserver.serving import scopes


def test_the_secured_deployments_give_options_and_variables_that_there_are() -> None:
    import yaml

    from crossmedia.imgserver.cli import imgserver

    deploy = ROOT / "deploy"
    options = {option for parameter in imgserver.commands["serve"].params for option in parameter.opts}
    plain, secured = (yaml.safe_load((deploy / name).read_text()) for name in ("compose.yaml", "compose.secure.yaml"))
    command = secured["services"]["imgserver"]["command"]
    assert command[: len(plain["services"]["imgserver"]["command"])] == plain["services"]["imgserver"]["command"]
    overlay = yaml.safe_load((deploy / "kubernetes-secure/kustomization.yaml").read_text())
    patches = yaml.safe_load(overlay["patches"][0]["patch"])
    arguments = [patch["value"] for patch in patches if patch["path"].endswith("/args/-")]
    assert {"--tls-cert", "--tls-key", "--tokens"} <= {word.partition("=")[0] for word in arguments} <= options
    assert {word.partition("=")[0] for word in command[2:]} <= options
    (env,) = [patch["value"] for patch in patches if patch["path"].endswith("/env")]
    variables = {entry["name"] for entry in env}
    for service in secured["services"].values():
        variables |= set(service["environment"])
    assert variables <= set(CLIENT.values())
    modes = [patch["value"]["secret"]["defaultMode"] for patch in patches if patch["path"].endswith("/volumes/-")]
    assert modes == [0o400, 0o400]


def test_kustomize_reads_the_secured_servers() -> None:
    import yaml

    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    folder = ROOT / "deploy/kubernetes-secure"
    done = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True, check=True)
    things = {thing["kind"]: thing for thing in yaml.safe_load_all(done.stdout)}
    (container,) = things["StatefulSet"]["spec"]["template"]["spec"]["containers"]
    assert "--tokens=/tokens/tokens" in container["args"]
    assert "grpc" not in container["readinessProbe"]


def test_the_documents_three_commands_make_a_server_that_answers(
    start_daemon: Callable[..., DaemonProcess], tmp_path: Path
) -> None:
    """What SECURITY.md tells to type, but the address to listen at and the store."""
    commands = re.findall(r"^    (.+)$", (ROOT / "SECURITY.md").read_text(), re.MULTILINE)
    home = tmp_path / "home"
    home.mkdir()
    for command in commands[:2]:
        subprocess.run(["bash", "-c", command], cwd=home, check=True, capture_output=True)
    options = re.findall(r"(--(?:tls-cert|tls-key|tokens)) (\S+)", commands[2])
    assert len(options) == 3
    daemon = start_daemon(*(f"{option}={home / name}" for option, name in options))
    settings = dict(re.findall(r"(CROSSMEDIA_\w+)=(\S+)", commands[3]))
    env = {**os.environ, **{variable: str(home / name) for variable, name in settings.items()}}
    command = [sys.executable, "-m", "crossmedia.imgserver", "info", f"--server={daemon.address}", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert json.loads(done.stdout)["images_stored"] == 100, done.stderr


def test_the_document_names_every_setting() -> None:
    text = (ROOT / "SECURITY.md").read_text()
    for variable in CLIENT.values():
        assert variable in text
    for path, scope in scopes.SCOPE_OF.items():
        method = path.rpartition("/")[2]
        assert re.search(rf"\| `{scope}` \|[^\n]*`{method}`", text), f"{method} is not in the table of scopes"
