"""deploy/kubernetes as kustomize builds it: schemas, least privilege, sizes, versions, command
lines."""

import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import click
import kubernetes_validate
import pytest
import yaml
from ray._private.ray_constants import DEFAULT_OBJECT_STORE_MEMORY_PROPORTION
from ray.autoscaler._private.kuberay.autoscaling_config import (
    _derive_autoscaling_config_from_ray_cr,
)
from ray.scripts.scripts import drain_node
from ray.train.v2._internal.execution.worker_group.worker import RayTrainWorker

from afield.__main__ import verbs
from tests.deploy.kuberay import KUBERNETES, problems
from tests.deploy.shown_jobs import printed

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
OVERLAYS = ("cpu", "gpu")
# The nightly job has a file of its own; the others start no Ray, or are looked at by a person.
BY_HAND = {"artifact", "demo", "nightly", "preview", "publish", "registry", "report", "search"}
Resource = dict[str, Any]


def files(overlay: str) -> list[Path]:
    """Return the files that an overlay is made of."""
    return [*(FOLDER / "base").glob("*.yaml"), *(FOLDER / "overlays" / overlay).glob("*.yaml")]


@cache
def built(overlay: str) -> tuple[Resource, ...]:
    """Build an overlay with the kustomize that is there."""
    path = str(FOLDER / "overlays" / overlay)
    if kubectl := shutil.which("kubectl"):
        command = [kubectl, "kustomize", path]
    elif kustomize := shutil.which("kustomize"):
        command = [kustomize, "build", path]
    else:
        pytest.skip("there is no kubectl and no kustomize to build with")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return tuple(yaml.safe_load_all(done.stdout))


def of_kind(overlay: str, kind: str) -> list[Resource]:
    """Return the resources of a kind."""
    return [one for one in built(overlay) if one["kind"] == kind]


def clusters(overlay: str) -> list[Resource]:
    """Return the specification of every Ray cluster that an overlay may start."""
    found = [one["spec"] for one in of_kind(overlay, "RayCluster")]
    found += [one["spec"]["rayClusterSpec"] for one in of_kind(overlay, "RayJob")]
    return [
        *found,
        *(one["spec"]["jobTemplate"]["rayClusterSpec"] for one in of_kind(overlay, "RayCronJob")),
    ]


def pods(value: Any) -> list[Resource]:
    """Return every pod specification below a value."""
    if isinstance(value, list):
        return [pod for one in value for pod in pods(one)]
    if not isinstance(value, dict):
        return []
    own = [value] if "containers" in value else []
    return own + [pod for one in value.values() for pod in pods(one)]


def quantity(text: str) -> float:
    """Return the number of bytes or CPUs that Kubernetes reads in a text."""
    number, unit = re.fullmatch(r"([\d.]+)([A-Za-z]*)", text).groups()  # type: ignore[union-attr]
    return float(number) * {"": 1, "m": 1e-3, "Mi": 2**20, "Gi": 2**30}[unit]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_resource_fits_its_schema(overlay: str) -> None:
    for resource in built(overlay):
        if resource["apiVersion"].startswith("ray.io/"):
            assert problems(resource) == [], resource["metadata"]["name"]
        else:
            kubernetes_validate.validate(resource, KUBERNETES, strict=True)
        known = {"Namespace"}
        assert resource["kind"] in known or resource["metadata"]["namespace"] == "afield"


def test_schemas_refuse_what_kuberay_does() -> None:
    job = of_kind("cpu", "RayJob")[0]
    assert problems({**job, "spec": {**job["spec"], "shutdownAfterFinish": True}})
    rules = job["spec"]["deletionStrategy"]["deletionRules"]
    early = {"policy": "DeleteSelf", "condition": {"jobStatus": "SUCCEEDED", "ttlSeconds": 0}}
    assert problems(
        {**job, "spec": {**job["spec"], "deletionStrategy": {"deletionRules": [*rules, early]}}}
    )
    cluster = of_kind("cpu", "RayCluster")[0]
    pod = cluster["spec"]["headGroupSpec"]["template"]["spec"]
    template = {"spec": {**pod, "nodeSelectors": {}}}
    head = {**cluster["spec"]["headGroupSpec"], "template": template}
    assert problems({**cluster, "spec": {**cluster["spec"], "headGroupSpec": head}})


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_each_job_brings_the_patched_cluster(overlay: str) -> None:
    first, *others = clusters(overlay)
    assert len(others) == len(of_kind(overlay, "RayJob")) + 1  # and the nightly one
    assert all(other == first for other in others)
    groups = [group["groupName"] for group in first["workerGroupSpecs"]]
    assert groups == (["data"] if overlay == "cpu" else ["data", "train"])


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_rays_autoscaler_reads_the_nodes_that_are_meant(overlay: str) -> None:
    cluster = of_kind(overlay, "RayCluster")[0]
    config = _derive_autoscaling_config_from_ray_cr(cluster)
    head, data, *train = config["available_node_types"].values()
    assert head["resources"]["CPU"] == 0 and head["max_workers"] == 0
    assert data["min_workers"] == 0 < data["max_workers"]
    assert data["resources"]["CPU"] > 0 and "GPU" not in data["resources"]
    assert (head["labels"], data["labels"]) == ({"afield/role": "head"}, {"afield/role": "data"})
    assert len(train) == (overlay == "gpu")
    for node in train:
        assert node["resources"]["GPU"] == 4 and node["labels"]["ray.io/market-type"] == "spot"
        assert node["labels"]["afield/role"] == "train"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_pod_keeps_to_the_restricted_profile(overlay: str) -> None:
    found = pods(list(built(overlay)))
    assert len(found) >= 14
    for pod in found:
        context = pod["securityContext"]
        assert context["runAsNonRoot"] and context["runAsUser"] == 1000
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        assert all(set(one) <= {"name", "emptyDir"} for one in pod.get("volumes", []))
        own = [container["securityContext"] for container in pod["containers"]]
        assert all(one["allowPrivilegeEscalation"] is False for one in own)
        assert all(one["capabilities"] == {"drop": ["ALL"]} for one in own)
        assert all({"requests", "limits"} <= set(one["resources"]) for one in pod["containers"])
    for cluster in clusters(overlay):
        own = cluster["autoscalerOptions"]["securityContext"]
        assert own["capabilities"] == {"drop": ["ALL"]}
    [namespace] = of_kind(overlay, "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_only_heads_talk_to_kubernetes_and_nobody_has_a_role_from_here(overlay: str) -> None:
    assert not [one for one in built(overlay) if "Role" in one["kind"]]
    for pod in pods(list(built(overlay))):
        head = pod["serviceAccountName"] == "afield-head"
        assert head or pod["automountServiceAccountToken"] is False
    named = {pod["serviceAccountName"] for pod in pods(list(built(overlay)))}
    assert named == {one["metadata"]["name"] for one in of_kind(overlay, "ServiceAccount")}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_token_is_on_and_secrets_are_only_named(overlay: str) -> None:
    assert not of_kind(overlay, "Secret")
    for cluster in clusters(overlay):
        assert cluster["authOptions"] == {"mode": "token", "secretName": "afield-token"}
    [settings] = of_kind(overlay, "ConfigMap")
    assert not re.search(r"KEY|TOKEN|SECRET|PASSWORD", " ".join(settings["data"]))
    [submit] = pods(of_kind(overlay, "CronJob"))
    variables = {one["name"]: one for one in submit["containers"][0]["env"]}
    assert variables["RAY_AUTH_TOKEN"]["valueFrom"]["secretKeyRef"]["name"] == "afield-token"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_shared_memory_holds_rays_object_store(overlay: str) -> None:
    for pod in pods(clusters(overlay)):
        [container] = pod["containers"]
        [volume] = pod["volumes"]
        assert {"name": volume["name"], "mountPath": "/dev/shm"} in container["volumeMounts"]
        assert volume["emptyDir"]["medium"] == "Memory"
        limit = quantity(container["resources"]["limits"]["memory"])
        store = DEFAULT_OBJECT_STORE_MEMORY_PROPORTION * limit
        assert store <= quantity(volume["emptyDir"]["sizeLimit"]) < limit / 2


def test_a_spot_node_tells_ray_and_leaves_time_for_a_checkpoint() -> None:
    for cluster in clusters("gpu"):
        group = cluster["workerGroupSpecs"][1]
        pod = group["template"]["spec"]
        command = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][-1]
        drain, wait = command.split("; ", 1)
        words = drain.split()
        assert words[:2] == ["ray", "drain-node"]
        with click.Context(drain_node) as context:
            drain_node.parse_args(context, words[2:])
        assert context.params["deadline_remaining_seconds"] < pod["terminationGracePeriodSeconds"]
        assert pod["terminationGracePeriodSeconds"] < 120  # AWS's notice
        assert f"[{RayTrainWorker.__name__[0]}]{RayTrainWorker.__name__[1:]}" in wait
        assert pod["tolerations"] and pod["nodeSelector"] == {"afield/pool": "spot-gpu"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_images_and_ray_are_those_of_the_constraints(overlay: str) -> None:
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    ray = next(pin for pin in pins if pin.startswith("ray==")).removeprefix("ray==")
    [version] = re.findall(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.M)
    assert all(cluster["rayVersion"] == ray for cluster in clusters(overlay))
    for pod in pods(list(built(overlay))):
        [container] = pod["containers"]
        gpu = "nvidia.com/gpu" in container["resources"]["limits"]
        tag = container["image"].rpartition(":")[2]
        assert tag == f"{version}-ray{ray}-{'cuda' if gpu else 'cpu'}"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_jobs_take_the_command_lines_as_they_are(
    overlay: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = of_kind(overlay, "RayJob")
    assert [job["spec"]["entrypoint"].split()[1] for job in jobs] == [
        job["metadata"]["name"] for job in jobs
    ]
    assert set(verbs()) - {job["metadata"]["name"] for job in jobs} == BY_HAND
    for job in jobs:
        printed(job["spec"]["entrypoint"], monkeypatch)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_jobs_end_are_tried_again_and_are_cleaned_up(overlay: str) -> None:
    nightly = [one["spec"]["jobTemplate"] for one in of_kind(overlay, "RayCronJob")]
    for job in [*(one["spec"] for one in of_kind(overlay, "RayJob")), *nightly]:
        assert job["backoffLimit"] > 0 and job["activeDeadlineSeconds"] > 0
        rules = job["deletionStrategy"]["deletionRules"]
        ends = {
            tuple(
                sorted(
                    set(rule["condition"].items())
                    - {("ttlSeconds", rule["condition"]["ttlSeconds"])}
                )
            )
            for rule in rules
        }
        assert len(ends) == 3
    [submit] = of_kind(overlay, "CronJob")
    for spec in (submit["spec"], of_kind(overlay, "RayCronJob")[0]["spec"]):
        assert spec["suspend"] is True  # a night costs money: somebody starts it
        assert spec["timeZone"] == "Etc/UTC" and len(spec["schedule"].split()) == 5
    assert submit["spec"]["concurrencyPolicy"] == "Forbid"
    assert submit["spec"]["jobTemplate"]["spec"]["backoffLimit"] > 0


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_nothing_from_outside_reaches_a_ray_node(overlay: str) -> None:
    policies = {one["metadata"]["name"]: one["spec"] for one in of_kind(overlay, "NetworkPolicy")}
    nodes = policies["ray-nodes"]
    assert nodes["policyTypes"] == ["Ingress", "Egress"]
    for rule in nodes["ingress"]:
        assert rule["from"] and all("ipBlock" not in peer for peer in rule["from"])
    assert "ingress" not in policies["submitters"]
    for template in [*of_kind(overlay, "RayJob"), *of_kind(overlay, "RayCronJob")]:
        job = template["spec"].get("jobTemplate", template["spec"])
        labels = job["submitterPodTemplate"]["metadata"]["labels"]
        assert labels == policies["submitters"]["podSelector"]["matchLabels"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_file_is_named_in_a_kustomization(overlay: str) -> None:
    for file in files(overlay):
        kustomization = yaml.safe_load((file.parent / "kustomization.yaml").read_text())
        named = [
            *kustomization["resources"],
            *(p.get("path") for p in kustomization.get("patches", [])),
        ]
        assert file.name == "kustomization.yaml" or file.name in named


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_patches_hit_what_is_there(overlay: str) -> None:
    base = [
        one
        for file in (FOLDER / "base").glob("*.yaml")
        for one in yaml.safe_load_all(file.read_text())
    ]
    folder = FOLDER / "overlays" / overlay
    for patch in yaml.safe_load((folder / "kustomization.yaml").read_text())["patches"]:
        target = patch["target"]
        [hit] = [
            one
            for one in base
            if one["kind"] == target["kind"] and one["metadata"]["name"] == target["name"]
        ]
        text = (folder / patch["path"]).read_text() if "path" in patch else patch["patch"]
        for step in yaml.safe_load(text):
            *parents, last = step["path"].strip("/").split("/")
            at: Any = hit
            for part in parents:
                at = at[int(part)] if isinstance(at, list) else at[part]
            assert last in at if step["op"] == "replace" else last == "-" or last not in at
