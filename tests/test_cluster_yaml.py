"""The two files for `ray up` against Ray's own validation and what that overlooks: limits, network,
labels, the cloud's own parameter names."""

import json
from importlib import resources
from pathlib import Path
from typing import Any

import botocore.session
import pytest
import yaml
from botocore.validate import ParamValidator
from ray._private.label_utils import validate_label_key, validate_label_value, validate_node_labels
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).resolve().parents[1]
AWS = ROOT / "cluster.yaml"
GCP = ROOT / "deploy" / "cluster-gcp.yaml"


def read(file: Path) -> dict[str, Any]:
    """Return a file as Ray completes it."""
    config: dict[str, Any] = prepare_config(yaml.safe_load(file.read_text()))
    return config


@pytest.fixture(params=[AWS, GCP], ids=["aws", "gcp"])
def file(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


@pytest.fixture
def cluster(file: Path) -> dict[str, Any]:
    return read(file)


@pytest.fixture
def node_types(cluster: dict[str, Any]) -> dict[str, dict[str, Any]]:
    types: dict[str, dict[str, Any]] = cluster["available_node_types"]
    return types


def test_ray_accepts_it(cluster: dict[str, Any]) -> None:
    validate_config(cluster)


def test_region_and_instance_types_are_named() -> None:
    cluster = read(AWS)
    assert cluster["provider"]["region"] in botocore.session.get_session().get_available_regions(
        "ec2"
    )
    ec2 = botocore.session.get_session().get_service_model("ec2")
    known = set(ec2.shape_for("InstanceType").enum)
    nodes = cluster["available_node_types"].values()
    assert {node["node_config"]["InstanceType"] for node in nodes} <= known


def test_worker_limits_are_consistent(cluster: dict[str, Any], node_types: dict[str, Any]) -> None:
    workers = {name: node for name, node in node_types.items() if name != cluster["head_node_type"]}
    assert all(0 <= node["min_workers"] <= node["max_workers"] for node in workers.values())
    assert all(node["max_workers"] > 0 for node in workers.values())
    assert sum(node["max_workers"] for node in workers.values()) <= cluster["max_workers"]


def _on_spot(node: dict[str, Any]) -> bool:
    config = node["node_config"]
    aws = config.get("InstanceMarketOptions", {}).get("MarketType") == "spot"
    return aws or config.get("scheduling", {}).get("provisioningModel") == "SPOT"


def test_head_does_no_work_and_is_not_on_spot(
    cluster: dict[str, Any], node_types: dict[str, Any]
) -> None:
    head = node_types[cluster["head_node_type"]]
    assert head["resources"] == {"CPU": 0}
    assert not _on_spot(head)


def test_gpu_nodes_are_on_spot_and_data_nodes_have_no_gpu(node_types: dict[str, Any]) -> None:
    assert node_types["train"]["resources"]["GPU"] > 0
    assert _on_spot(node_types["train"])
    assert (
        node_types["data"]["resources"].get("GPU", 0) == 0 < node_types["data"]["resources"]["CPU"]
    )


def test_every_node_type_has_its_role_as_a_valid_label(node_types: dict[str, Any]) -> None:
    for name, node in node_types.items():
        assert node["labels"]["afield/role"] == name
        validate_node_labels(node["labels"])
        for key, value in node["labels"].items():
            assert validate_label_key(key) is None
            validate_label_value(value)


def test_node_configs_hold_only_what_ec2_knows() -> None:
    request = (
        botocore.session.get_session()
        .get_service_model("ec2")
        .operation_model("RunInstances")
        .input_shape
    )
    for name, node in read(AWS)["available_node_types"].items():
        config = dict(node["node_config"])
        assert config.pop("SubnetIds")  # Ray's own key: one of them becomes SubnetId
        assert not set(config) - set(request.members), name
        report = ParamValidator().validate({**config, "MinCount": 1, "MaxCount": 1}, request)
        assert not report.has_errors(), f"{name}: {report.generate_report()}"


def _unknown(schemas: dict[str, Any], schema: dict[str, Any], value: Any, path: str) -> list[str]:
    """Return what of a value a Google API's discovery document does not know."""
    schema = schemas[schema["$ref"]] if "$ref" in schema else schema
    if schema["type"] == "array":
        assert isinstance(value, list), path
        return [bad for one in value for bad in _unknown(schemas, schema["items"], one, path)]
    if schema["type"] != "object":
        kind = {"string": str, "boolean": bool, "integer": int}[schema["type"]]
        number = schema.get("format") in ("int64", "uint64") and isinstance(value, int)
        right = isinstance(value, kind) or number
        return [] if right and value in schema.get("enum", [value]) else [f"{path}={value}"]
    known = schema.get("properties", {})
    found = [f"{path}.{key}" for key in value if key not in known]
    for key in set(value) & set(known):
        found += _unknown(schemas, known[key], value[key], f"{path}.{key}")
    return found


def test_node_configs_hold_only_what_compute_engine_knows() -> None:
    documents = resources.files("googleapiclient") / "discovery_cache" / "documents"
    schemas = json.loads((documents / "compute.v1.json").read_text())["schemas"]
    for name, node in read(GCP)["available_node_types"].items():
        assert not _unknown(schemas, {"$ref": "Instance"}, node["node_config"], name)
    wrong = {"machineTyp": "n2-standard-4", "scheduling": {"provisioningModel": "spot"}}
    assert len(_unknown(schemas, {"$ref": "Instance"}, wrong, "node")) == 2


def test_nothing_is_open_to_the_world(file: Path, cluster: dict[str, Any]) -> None:
    assert "0.0.0.0" not in file.read_text() and "::/0" not in file.read_text()
    assert cluster["provider"]["use_internal_ips"] is True
    for node in cluster["available_node_types"].values():
        config = node["node_config"]
        if file == GCP:
            # what gives a public address
            assert all("accessConfigs" not in one for one in config["networkInterfaces"])
            continue
        # Without a group of its own a node gets Ray's, which admits SSH from every address.
        assert config["SecurityGroupIds"]
        # the way to a public address that bypasses the above
        assert "NetworkInterfaces" not in config
        assert config["MetadataOptions"]["HttpTokens"] == "required"


def test_token_authentication_is_on_and_usage_reports_are_off(cluster: dict[str, Any]) -> None:
    assert "--env RAY_AUTH_MODE=token" in cluster["docker"]["run_options"]
    assert "--env RAY_USAGE_STATS_ENABLED=0" in cluster["docker"]["run_options"]
    assert any(
        "RAY_USAGE_STATS_REPORT_URL=http://127.0.0.1:9" in option
        for option in cluster["docker"]["run_options"]
    )
    assert "/home/ray/.ray/auth_token" in cluster["file_mounts"]


def test_images_run_the_ray_of_the_constraints(
    cluster: dict[str, Any], node_types: dict[str, Any]
) -> None:
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    version = next(pin for pin in pins if pin.startswith("ray==")).removeprefix("ray==")
    images = [cluster["docker"]["image"], node_types["train"]["docker"]["worker_image"]]
    assert all(f":{version}-py311" in image for image in images)
