"""What deploy/ holds: commands that exist, metrics that exist, files that their own tools read."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import click
import numpy as np
import pytest
import yaml
from conftest import ROOT, DaemonProcess, copy_store

from crossmedia.cli import crossmedia
from crossmedia.imgserver.client import ImageClient

DEPLOY = ROOT / "deploy"
YAML_FILES = [*DEPLOY.rglob("*.yaml"), *DEPLOY.rglob("*.yml")]


def documents(file: Path) -> list[Any]:
    """The documents of a YAML file."""
    return list(yaml.safe_load_all(file.read_text()))


def kubernetes() -> list[dict[str, Any]]:
    """Every Kubernetes object."""
    files = [file for file in (DEPLOY / "kubernetes").glob("*.yaml") if file.name != "kustomization.yaml"]
    return [document for file in files for document in documents(file)]


def commands() -> Iterator[tuple[str, list[str]]]:
    """Where a command of ours is written, and its words behind ``crossmedia``."""
    for line in re.findall(r"CMD (\[.*\])$", (DEPLOY / "Dockerfile").read_text(), re.M):
        yield "Dockerfile", [part for part in json.loads(line) if part != "crossmedia"]
    (compose,) = documents(DEPLOY / "compose.yaml")
    for name, service in compose["services"].items():
        if "command" in service:
            yield f"compose.yaml {name}", service["command"]
    unit = (DEPLOY / "systemd" / "crossmedia-imgserver.service").read_text()
    yield "systemd", shlex.split(re.findall(r"^ExecStart=\S+ (.*)$", unit, re.M)[0])
    for thing in kubernetes():
        pod = thing.get("spec", {}).get("template", {}).get("spec", {})
        for container in [*pod.get("initContainers", []), *pod.get("containers", [])]:
            words = shlex.split(container["args"][0]) if "command" in container else container["args"]
            yield f"kubernetes {container['name']}", [str(w) for w in words if w not in ("exec", "crossmedia")]


@pytest.mark.parametrize(("where", "words"), [pytest.param(*found, id=found[0]) for found in commands()])
def test_commands_exist_with_their_options(where: str, words: list[str]) -> None:
    command: click.Command = crossmedia
    context = click.Context(command)
    while isinstance(command, click.Group):
        found = command.get_command(context, words[0])
        assert found is not None, f"{where}: there is no {words[0]}"
        command, words = found, words[1:]
    known = {name for parameter in command.params for name in parameter.opts}
    given = {word.partition("=")[0] for word in words if word.startswith("--")}
    assert given <= known, f"{where}: {given - known}"


@pytest.mark.parametrize("file", YAML_FILES, ids=lambda file: str(file.relative_to(DEPLOY)))
def test_yaml_is_yaml(file: Path) -> None:
    assert all(isinstance(document, dict) for document in documents(file))


def test_the_pods_are_locked_down_and_probed_by_their_health() -> None:
    things = {(thing["kind"], thing["metadata"]["name"]): thing for thing in kubernetes()}
    pods = [thing["spec"]["template"]["spec"] for (kind, _), thing in things.items() if kind in ("StatefulSet", "Job")]
    assert len(pods) == 2
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"]
        assert all(not container["securityContext"]["allowPrivilegeEscalation"] for container in pod["containers"])
    servers, service = things["StatefulSet", "imgserver"]["spec"], things["Service", "imgserver"]["spec"]
    (container,) = servers["template"]["spec"]["containers"]
    assert container["readinessProbe"]["grpc"]["service"] == "crossmedia.v1.ImageService"
    assert service["clusterIP"] == "None"  # else one address, and callers would not go round
    budget = things["PodDisruptionBudget", "imgserver"]["spec"]
    assert budget["minAvailable"] < servers["replicas"]
    labels = servers["template"]["metadata"]["labels"]
    assert service["selector"] == budget["selector"]["matchLabels"] == servers["selector"]["matchLabels"] == labels
    job = things["Job", "precompute"]["spec"]
    assert f"/{job['completions']} " in job["template"]["spec"]["containers"][0]["args"][0] + " "


def test_the_job_on_gpus_has_as_many_parts_as_processes_of_all_its_pods() -> None:
    (overlay,) = documents(DEPLOY / "kubernetes-gpu" / "kustomization.yaml")
    patches = {
        patch["path"].rpartition("/")[2]: patch["value"] for patch in yaml.safe_load(overlay["patches"][0]["patch"])
    }
    (line,) = patches["args"]
    parts = len(re.findall(r"for part in ([\d ]+);", line)[0].split())
    (job,) = [thing["spec"] for thing in kubernetes() if thing["kind"] == "Job"]
    assert f"--part $(({parts} * JOB_COMPLETION_INDEX + part))/{parts * job['completions']} " in line
    options = shlex.split(line.partition("precompute ")[2].partition(" --part")[0])
    test_commands_exist_with_their_options("kubernetes-gpu", ["imgserver", "precompute", *options])
    assert patches["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert patches["image"] in (DEPLOY / "Dockerfile").read_text()


def test_every_mounted_volume_is_there() -> None:
    claims = {thing["metadata"]["name"] for thing in kubernetes() if thing["kind"] == "PersistentVolumeClaim"}
    for thing in kubernetes():
        if thing["kind"] not in ("StatefulSet", "Job"):
            continue
        pod = thing["spec"]["template"]["spec"]
        there = {volume["name"] for volume in pod.get("volumes", [])}
        there |= {claim["metadata"]["name"] for claim in thing["spec"].get("volumeClaimTemplates", [])}
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= there
        for volume in pod.get("volumes", []):
            assert volume["persistentVolumeClaim"]["claimName"] in claims


def test_files_that_compose_mounts_are_there() -> None:
    (compose,) = documents(DEPLOY / "compose.yaml")
    for service in compose["services"].values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("./"):
                assert (DEPLOY / source).is_file()
            elif not source.startswith("${"):
                assert source in compose["volumes"]


def test_kustomize_reads_the_manifests() -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    done = subprocess.run(["kubectl", "kustomize", DEPLOY / "kubernetes"], capture_output=True, text=True, check=True)
    assert len(list(yaml.safe_load_all(done.stdout))) == len(kubernetes())


def test_systemd_reads_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not installed")
    text = (DEPLOY / "systemd" / "crossmedia-imgserver.service").read_text()
    unit = tmp_path / "crossmedia-imgserver.service"
    unit.write_text(re.sub(r"^ExecStart=\S+", f"ExecStart={shutil.which('true')}", text, flags=re.M))
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True)
    assert unit.name not in done.stderr, done.stderr
    assert done.returncode == 0, done.stderr


def test_the_unit_may_write_what_the_server_compiles() -> None:
    """Where numba can write neither beside the package nor into a cache, importing the server fails."""
    text = (DEPLOY / "systemd" / "crossmedia-imgserver.service").read_text()
    settings = dict(re.findall(r"^(\w+)=(.*)$", text, re.M))
    assert settings["ProtectSystem"] == "strict"
    assert settings["Environment"] == f"XDG_CACHE_HOME=/var/cache/{settings['CacheDirectory']}"


def test_the_dashboard_shows_metrics_that_the_server_has(graph_cache: Path, tmp_path: Path) -> None:
    server = DaemonProcess(copy_store(graph_cache, tmp_path / "store"), None, "--metrics-port=0")
    try:
        with ImageClient(server.address) as client:
            client.get(np.arange(120))
        port = json.loads((server.store / "daemon.json").read_text())["metrics_port"]
        with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as reply:
            text = reply.read().decode()
    finally:
        server.stop()
    there = set(re.findall(r"^# TYPE (\S+)", text, re.M)) | set(re.findall(r"^(crossmedia_\w+)", text, re.M))
    dashboard = json.loads((DEPLOY / "grafana" / "dashboard.json").read_text())
    shown = set()
    for panel in dashboard["panels"]:
        assert panel["title"]
        assert panel["description"]
        for target in panel["targets"]:
            shown |= set(re.findall(r"crossmedia_\w+", target["expr"]))
    assert shown <= there, shown - there
    families = {name.removesuffix("_total") for name in re.findall(r"^# TYPE (crossmedia_\w+)", text, re.M)}
    families = {name for name in families if not name.endswith("_created")}
    assert len(families) > 12
    missing = {name for name in families if not any(metric.startswith(name) for metric in shown)}
    assert not missing, f"no panel shows {missing}"
