"""The manifest for KubeRay on the page about clusters: what its operator takes, what the command
takes; without Kubernetes."""

from __future__ import annotations

import copy
import shlex
from typing import Any

import pytest
from typer.testing import CliRunner

from tabwright.cli.app import app
from tests.pages import ROOT, blocks

yaml = pytest.importorskip("yaml", reason="PyYAML is absent")
jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is absent")

_PAGE = ROOT / "docs" / "howto" / "cluster.md"
_TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
_COUNT = {"type": "integer", "minimum": 0}


def _object(required: list[str], **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


_QUANTITIES = {"type": "object", "additionalProperties": {"type": ["integer", "string"]}}
_NAME = {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"}
_CONTAINER = _object(
    ["name", "image"],
    name=_NAME,
    image={"type": "string"},
    envFrom={
        "type": "array",
        "items": _object(["secretRef"], secretRef=_object(["name"], name=_NAME)),
    },
    resources=_object([], limits=_QUANTITIES, requests=_QUANTITIES),
    volumeMounts={
        "type": "array",
        "items": _object(
            ["name", "mountPath"], name=_NAME, mountPath={"type": "string", "pattern": "^/"}
        ),
    },
)
_POD = _object(
    ["spec"],
    spec=_object(
        ["containers"],
        containers={"type": "array", "items": _CONTAINER, "minItems": 1},
        volumes={
            "type": "array",
            "items": _object(
                ["name", "persistentVolumeClaim"],
                name=_NAME,
                persistentVolumeClaim=_object(["claimName"], claimName=_NAME),
            ),
        },
    ),
)
# What ray.io/v1 requires and knows, of what the manifest may use (KubeRay,
# ray-operator/apis/ray/v1/rayjob_types.go and raycluster_types.go); of a pod, what Kubernetes does.
_RAY_JOB = _object(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata=_object(["name"], name={**_NAME, "maxLength": 47}),
    spec=_object(
        ["entrypoint", "rayClusterSpec"],
        entrypoint={"type": "string"},
        shutdownAfterJobFinishes={"type": "boolean"},
        backoffLimit=_COUNT,
        rayClusterSpec=_object(
            ["headGroupSpec"],
            rayVersion={"type": "string"},
            headGroupSpec=_object(
                ["rayStartParams", "template"], rayStartParams=_TEXTS, template=_POD
            ),
            workerGroupSpecs={
                "type": "array",
                "items": _object(
                    ["groupName", "minReplicas", "maxReplicas", "rayStartParams", "template"],
                    groupName=_NAME,
                    replicas=_COUNT,
                    minReplicas=_COUNT,
                    maxReplicas=_COUNT,
                    rayStartParams=_TEXTS,
                    template=_POD,
                ),
            },
        ),
    ),
)


@pytest.fixture
def manifest() -> dict[str, Any]:
    (block,) = (block for block in blocks(_PAGE.read_text()) if block.language == "yaml")
    read: dict[str, Any] = yaml.safe_load(block.text)
    return read


def _pods(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    cluster = manifest["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


def test_it_has_the_fields_of_the_operator(manifest: dict[str, Any]) -> None:
    jsonschema.validate(manifest, _RAY_JOB)
    for group in manifest["spec"]["rayClusterSpec"]["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


@pytest.mark.parametrize(
    "place",
    [["headGroupSpec"], ["headGroupSpec", "template"], ["workerGroupSpecs", 0, "groupName"]],
)
def test_a_field_that_is_missing_or_misspelt_is_found(
    manifest: dict[str, Any], place: list[Any]
) -> None:
    for replacement in ({}, {"headgroup": 1}):
        broken = copy.deepcopy(manifest)
        holder = broken["spec"]["rayClusterSpec"]
        for step in place[:-1]:
            holder = holder[step]
        del holder[place[-1]]
        holder.update(replacement)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(broken, _RAY_JOB)


def test_what_a_container_mounts_is_a_volume_of_its_pod(manifest: dict[str, Any]) -> None:
    pods = _pods(manifest)
    assert len(pods) == 2
    for pod in pods:
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} == volumes


def test_the_entrypoint_is_a_command_that_finds_its_model_in_a_mount(
    manifest: dict[str, Any],
) -> None:
    program, *words = shlex.split(manifest["spec"]["entrypoint"])
    assert program == "tabwright"
    (mount,) = _pods(manifest)[0]["containers"][0]["volumeMounts"]
    model = words[words.index("--ray") + 1]
    assert model.startswith(f"{mount['mountPath']}/")
    # All of the options are known, and the model is what is looked for first.
    done = CliRunner().invoke(app, words)
    assert done.exit_code != 0
    assert f"error: there is no file {model}; " in " ".join(done.output.split())
