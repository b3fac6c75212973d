"""What kubectl makes of the overlays."""

import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2] / "manifests"
OVERLAYS = ("minio", "seaweedfs", "s3", "gcs")
ELSEWHERE = {"profile": "team", "single-user": "kubeflow"}  # overlays for a namespace that is there already
Object = dict[str, Any]


@cache
def rendered(folder: Path) -> list[Object]:
    """The objects of a kustomization, as `kubectl apply -k` would apply them."""
    kubectl = shutil.which("kubectl")
    if not kubectl:
        pytest.skip("kubectl is not on this machine")
    result = subprocess.run([kubectl, "kustomize", str(folder)], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    return [each for each in yaml.safe_load_all(result.stdout) if each]


def overlay(name: str) -> list[Object]:
    return rendered(ROOT / "overlays" / name)


def of_kind(objects: list[Object], *kinds: str) -> list[Object]:
    return [each for each in objects if each["kind"] in kinds]


def named(objects: list[Object], kind: str, name: str) -> Object:
    (found,) = (each for each in of_kind(objects, kind) if each["metadata"]["name"] == name)
    return found


def pod_specs(objects: list[Object]) -> dict[str, Object]:
    """Kind/name to what its pods are, with their labels."""
    specs = {}
    for each in objects:
        key = f"{each['kind']}/{each['metadata']['name']}"
        if each["kind"] in {"Deployment", "StatefulSet"}:
            template = each["spec"]["template"]
            specs[key] = {**template["spec"], "labels": template["metadata"]["labels"]}
        elif each["kind"] == "ServingRuntime":
            specs[key] = {**each["spec"], "labels": each["spec"].get("labels") or {}}
    return specs
