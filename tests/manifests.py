"""The Kubernetes manifests as kubectl makes them, for the tests that read them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import yaml

K8S = Path(__file__).parents[1] / "k8s"
OVERLAYS = sorted(path.name for path in (K8S / "overlays").iterdir() if path.is_dir())
STAGES = ("scrape", "explore", "train", "evaluate")
WITH_FEATURES = ("jobset", "kueue", "many-tags")  # those that many-tags is, or is the base of


def stages_of(overlay: str) -> tuple[str, ...]:
    """The stages of an overlay, in their order."""
    features = overlay in WITH_FEATURES
    return ("scrape", "explore", "embed", "train", "evaluate") if features else STAGES


Manifest = dict[str, Any]
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def kubectl() -> str:
    """The kubectl of this machine; without one the test is skipped, and in CI fails."""
    found = shutil.which("kubectl")
    if found is None:
        pytest.skip("kubectl is not installed: .ci/run installs it")
    return found


def parsed(text: str) -> list[Manifest]:
    return [document for document in yaml.load_all(text, _LOADER) if document]


@lru_cache
def built(overlay: str) -> list[Manifest]:
    """All that an overlay consists of, as it would be applied; not to be changed."""
    return kustomized(K8S / "overlays" / overlay)


def kustomized(folder: Path) -> list[Manifest]:
    """All that a folder with a kustomization consists of."""
    done = subprocess.run(
        [kubectl(), "kustomize", str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr  # such as what is deprecated
    return parsed(done.stdout)


def deploy(
    folder: Path, action: str = "render", **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a copy of deploy.sh: its working folder is of one user."""
    shutil.copytree(K8S, folder / "k8s", ignore=shutil.ignore_patterns(".deploy"))
    return subprocess.run(
        [folder / "k8s" / "deploy.sh", action],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **variables},
    )


def of_kind(manifests: list[Manifest], kind: str) -> dict[str, Manifest]:
    return {item["metadata"]["name"]: item for item in manifests if item["kind"] == kind}


def jobs(manifests: list[Manifest]) -> dict[str, Manifest]:
    """The Jobs by name, those of a JobSet by theirs in it."""
    found = of_kind(manifests, "Job")
    for jobset in of_kind(manifests, "JobSet").values():
        for part in jobset["spec"]["replicatedJobs"]:
            found[part["name"]] = {
                "apiVersion": "batch/v1",
                "kind": "Job",
                "metadata": {"name": part["name"]},
                **part["template"],
            }
    return found


def pods(manifests: list[Manifest]) -> dict[str, Manifest]:
    """The pod templates by the name of what makes them."""
    makers = {
        **jobs(manifests),
        **of_kind(manifests, "Deployment"),
        **of_kind(manifests, "StatefulSet"),
    }
    return {name: maker["spec"]["template"] for name, maker in makers.items()}


def containers(manifests: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    for name, pod in pods(manifests).items():
        for container in pod["spec"].get("initContainers", []) + pod["spec"]["containers"]:
            yield f"{name}/{container['name']}", container


def configmap(manifests: list[Manifest], name: str) -> dict[str, str]:
    """A ConfigMap's data by its name, or by its name without the digest at its end."""
    maps = of_kind(manifests, "ConfigMap")
    (found,) = (each for each in maps if name in (each, each.rpartition("-")[0]))
    data: dict[str, str] = maps[found]["data"]
    return data


def environment(manifests: list[Manifest], container: Manifest) -> dict[str, str]:
    """The variables a container gets, but for those of Secrets."""
    values: dict[str, str] = {}
    for source in container.get("envFrom", []):
        if "configMapRef" in source:
            values.update(configmap(manifests, source["configMapRef"]["name"]))
    values.update({item["name"]: item.get("value", "") for item in container.get("env", [])})
    return values
