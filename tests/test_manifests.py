"""Manifests against Kubernetes' own schemas, of two of its releases.

Of what belongs to others, KEDA's ScaledObject and KServe's InferenceService, there are no schemas that pip installs;
the containers in the second are looked at as those of a Pod.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import kubernetes_validate
import pytest
import yaml
from conftest import ROOT

FILES = [*(ROOT / "deploy").glob("kubernetes*/*.yaml"), *(ROOT / "examples" / "kserve").glob("*.yaml")]
OF_OTHERS = ("ScaledObject", "InferenceService", "Kustomization")
RELEASES = ("1.29", "1.37")


def things() -> Iterator[dict[str, Any]]:
    """Every object of Kubernetes' own; of KServe its containers, as a Pod; of an overlay what it makes."""
    for file in FILES:
        for thing in yaml.safe_load_all(file.read_text()):
            if thing["kind"] == "InferenceService":
                pod = {"containers": thing["spec"]["predictor"]["containers"]}
                yield {"apiVersion": "v1", "kind": "Pod", "metadata": thing["metadata"], "spec": pod}
            elif thing["kind"] == "Kustomization":
                yield from (patched(patch) for patch in thing.get("patches", []))
            elif thing["kind"] not in OF_OTHERS:
                yield thing


def patched(patch: dict[str, Any]) -> dict[str, Any]:
    """The object that a patch of JSON is for, after it."""
    (thing,) = (
        thing
        for file in (ROOT / "deploy" / "kubernetes").glob("*.yaml")
        for thing in yaml.safe_load_all(file.read_text())
        if "name" in thing.get("metadata", {})
        and {"kind": thing["kind"], "name": thing["metadata"]["name"]} == patch["target"]
    )
    changed: dict[str, Any] = thing
    for change in yaml.safe_load(patch["patch"]):
        *parents, last = change["path"].strip("/").split("/")
        place: Any = thing
        for name in parents:
            place = place[int(name)] if isinstance(place, list) else place[name]
        if isinstance(place, list):
            place.append(change["value"])
        else:
            place[last] = change["value"]
    return changed


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("thing", [*things()], ids=lambda thing: f"{thing['kind']}-{thing['metadata']['name']}")
def test_a_manifest_is_of_the_schema(thing: dict[str, Any], release: str) -> None:
    kubernetes_validate.validate(thing, release, strict=True)


def test_a_manifest_that_is_not_of_the_schema_is_found() -> None:
    def broken(*path: Any, value: Any) -> dict[str, Any]:
        (thing,) = (one for one in things() if one["kind"] == "Deployment")
        place: Any = thing
        for name in path:
            place = place[name]
        place.update(value)
        return thing

    container = ("spec", "template", "spec", "containers", 0)
    for change in (
        broken("spec", value={"replica": 2}),
        broken("spec", value={"replicas": "two"}),
        broken(*container, value={"readynessProbe": {}}),
        broken(*container, value={"ports": [{"containerPort": "grpc"}]}),
        broken(value={"metadata": {"name": 5}}),
    ):
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(change, RELEASES[-1], strict=True)


def test_every_file_is_looked_at() -> None:
    kinds = {thing["kind"] for file in FILES for thing in yaml.safe_load_all(file.read_text())}
    assert kinds - {thing["kind"] for thing in things()} == {*OF_OTHERS}
    made = [thing["kind"] for thing in things()]
    assert (made.count("StatefulSet"), made.count("Job")) == (2, 2), "each as it is, and patched"
