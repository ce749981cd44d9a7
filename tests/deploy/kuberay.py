"""The fields of KubeRay's resources that deploy/ uses, and what its operator refuses of them.

Facts of KubeRay 1.7 (API ray.io/v1), read in ray-operator/apis/ray/v1/{raycluster,rayjob}_types.go
and ray-operator/controllers/ray/utils/validation.go of ray-project/kuberay, and for RayCronJob in
its guide in Ray's documentation (doc/source/kuberay/getting-started/raycronjob-quick-start.md).
A field that is missing here is refused: add it with its source. Pod templates are Kubernetes' own.
"""

import json
from functools import cache
from importlib import resources
from typing import Any

from jsonschema import Draft202012Validator
from referencing import Registry, Resource

KUBERNETES = "1.37.0"
TEXT = {"type": "string"}
TEXTS = {"type": "object", "additionalProperties": TEXT}
COUNT = {"type": "integer", "minimum": 0}
FLAG = {"type": "boolean"}


def _core(name: str) -> dict[str, str]:
    return {"$ref": f"https://kubernetes.io/api/_definitions.json#/$defs/io.k8s.api.core.v1.{name}"}


def _object(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    closed = {"additionalProperties": False, "required": list(required)}
    return {"type": "object", "properties": properties, **closed}


GROUP = {
    "labels": TEXTS,
    "rayStartParams": TEXTS,
    "template": _core("PodTemplateSpec"),
}
CLUSTER = _object(
    ("headGroupSpec",),
    rayVersion=TEXT,
    authOptions=_object(mode={"enum": ["disabled", "token"]}, secretName=TEXT),
    enableInTreeAutoscaling=FLAG,
    autoscalerOptions=_object(
        version={"enum": ["v1", "v2"]},
        idleTimeoutSeconds=COUNT,
        upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
        resources=_core("ResourceRequirements"),
        securityContext=_core("SecurityContext"),
    ),
    headGroupSpec=_object(("template",), **GROUP),
    workerGroupSpecs={
        "type": "array",
        "items": _object(
            ("groupName", "minReplicas", "maxReplicas", "template"),
            groupName=TEXT,
            replicas=COUNT,
            minReplicas=COUNT,
            maxReplicas=COUNT,
            **GROUP,
        ),
    },
)
RULE = _object(
    ("policy", "condition"),
    policy={"enum": ["DeleteCluster", "DeleteWorkers", "DeleteSelf", "DeleteNone"]},
    condition={
        **_object(
            jobStatus={"enum": ["SUCCEEDED", "FAILED"]},
            jobDeploymentStatus={"enum": ["Failed"]},
            ttlSeconds=COUNT,
        ),
        "oneOf": [{"required": ["jobStatus"]}, {"required": ["jobDeploymentStatus"]}],
    },
)
JOB = _object(
    ("entrypoint", "rayClusterSpec"),
    entrypoint=TEXT,
    rayClusterSpec=CLUSTER,
    backoffLimit=COUNT,
    activeDeadlineSeconds={"type": "integer", "minimum": 1},
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
    submitterConfig=_object(backoffLimit=COUNT),
    submitterPodTemplate=_core("PodTemplateSpec"),
    deletionStrategy=_object(
        ("deletionRules",), deletionRules={"type": "array", "minItems": 1, "items": RULE}
    ),
)
CRON_JOB = _object(
    ("schedule", "jobTemplate"), schedule=TEXT, timeZone=TEXT, suspend=FLAG, jobTemplate=JOB
)
SPECS = {"RayCluster": CLUSTER, "RayJob": JOB, "RayCronJob": CRON_JOB}
ORDER = ("DeleteWorkers", "DeleteCluster", "DeleteSelf")


@cache
def _kubernetes() -> Registry[Any]:
    folder = f"kubernetes-json-schema/v{KUBERNETES}-local-strict/_definitions.json"
    definitions = json.loads((resources.files("kubernetes_validate") / folder).read_text())
    return Resource.from_contents(definitions) @ Registry()


def problems(resource: dict[str, Any]) -> list[str]:
    """Return what is wrong with a RayCluster, RayJob or RayCronJob; empty where nothing is."""
    metadata = {"type": "object", "required": ["name"]}
    schema = _object(
        ("apiVersion", "kind", "metadata", "spec"),
        apiVersion={"const": "ray.io/v1"},
        kind=TEXT,
        metadata=metadata,
        spec=SPECS[resource["kind"]],
    )
    validator = Draft202012Validator(schema, registry=_kubernetes())
    found = [f"{error.json_path}: {error.message}" for error in validator.iter_errors(resource)]
    spec = resource["spec"]
    job = {"RayJob": spec, "RayCronJob": spec.get("jobTemplate")}.get(resource["kind"])
    return found or (_refused(job) if job else [])


def _refused(job: dict[str, Any]) -> list[str]:
    """Return what the operator refuses of a job that its schema lets through."""
    found = []
    ages: dict[str, dict[str, int]] = {}
    for rule in job.get("deletionStrategy", {}).get("deletionRules", []):
        condition = dict(rule["condition"])
        age = condition.pop("ttlSeconds", 0)
        of_state = ages.setdefault(str(condition), {})
        if rule["policy"] in of_state:
            found.append(f"two rules {rule['policy']} for {condition}")
        of_state[rule["policy"]] = age
    for state, of_state in ages.items():
        ordered = [of_state[policy] for policy in ORDER if policy in of_state]
        if ordered != sorted(ordered):
            found.append(f"for {state} the cluster must go before the job")
        if "DeleteWorkers" in of_state and job["rayClusterSpec"].get("enableInTreeAutoscaling"):
            found.append("DeleteWorkers is refused beside the autoscaler")
    return found
