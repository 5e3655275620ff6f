"""What deploy/ holds for the scoring server: options that exist, labels that match, metrics that a server has."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import urllib.request
from typing import Any

import pytest
import yaml
from conftest import ROOT
from oip import call, channel, infer
from scoring_server import ScoringProcess

from crossmedia.trainer.commands.serving import serve
from crossmedia.trainer.serving.api import NAME

FOLDER = ROOT / "deploy" / "kubernetes-scoring"
# Shown where there is something to show: a model that runs beside, a fetch that failed, a value that nothing matched.
SOMETIMES = {
    *("crossmedia_shadow_difference_total", "crossmedia_shadow_candidates_total"),
    *("crossmedia_vectors_failed_total", "crossmedia_values_unmatched_total"),
}


def things() -> dict[str, Any]:
    """The objects of the manifests by kind."""
    files = [FOLDER / "scorer.yaml", FOLDER / "scaling.yaml"]
    return {thing["kind"]: thing for file in files for thing in yaml.safe_load_all(file.read_text())}


def test_the_manifests_fit_together() -> None:
    found = things()
    spec = found["Deployment"]["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    words = container["args"]
    assert words[:2] == ["trainer", "serve"]
    known = {name for parameter in serve.params for name in parameter.opts}
    assert {word.partition("=")[0] for word in words if word.startswith("--")} <= known
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert {f"--port={ports['grpc']}", f"--rest-port={ports['rest']}", f"--metrics-port={ports['metrics']}"} <= set(
        words
    )
    assert container["readinessProbe"]["grpc"] == {"port": ports["grpc"], "service": NAME}
    labels = spec["template"]["metadata"]["labels"]
    service, budget = found["Service"]["spec"], found["PodDisruptionBudget"]["spec"]
    assert service["selector"] == budget["selector"]["matchLabels"] == spec["selector"]["matchLabels"] == labels
    assert service["clusterIP"] == "None"  # else one address, and callers would not go round
    assert {port["port"] for port in service["ports"]} == set(ports.values())
    assert budget["minAvailable"] < spec["replicas"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert not container["securityContext"]["allowPrivilegeEscalation"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    assert found["ScaledObject"]["spec"]["scaleTargetRef"]["name"] == found["Deployment"]["metadata"]["name"]
    listed = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())["resources"]
    assert {FOLDER / name for name in listed} == {*FOLDER.glob("*.yaml")} - {FOLDER / "kustomization.yaml"}


def test_kustomize_reads_them() -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    subprocess.run(["kubectl", "kustomize", FOLDER], capture_output=True, check=True)


def test_dashboard_and_scaling_name_metrics_that_a_server_has(scoring: ScoringProcess) -> None:
    with channel(scoring.address) as opened:
        call(opened, "ModelInfer", infer({"item_id": ["i1"]}))
    url = f"http://127.0.0.1:{scoring.metrics_port}/metrics"
    text = urllib.request.urlopen(url, timeout=10).read().decode()
    there = set(re.findall(r"^(crossmedia_\w+)", text, re.M)) | SOMETIMES
    dashboard = json.loads((ROOT / "deploy" / "grafana" / "scoring.json").read_text())
    shown = {
        name
        for panel in dashboard["panels"]
        for target in panel["targets"]
        for name in re.findall(r"crossmedia_\w+", target["expr"])
    }
    shown |= set(re.findall(r"crossmedia_\w+", (FOLDER / "scaling.yaml").read_text()))
    assert shown <= there, shown - there
    families = {name.removesuffix("_total") for name in re.findall(r"^# TYPE (crossmedia_\w+)", text, re.M)}
    families = {name for name in families if not name.endswith("_created")}
    missing = {name for name in families if not any(metric.startswith(name) for metric in shown)}
    assert not missing, f"no panel shows {missing}"
