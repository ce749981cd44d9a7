"""cluster.yaml against Ray's own validation and what that overlooks: limits, network, labels, EC2's
parameter names."""

from pathlib import Path
from typing import Any

import botocore.session
import pytest
import yaml
from botocore.validate import ParamValidator
from ray._private.label_utils import validate_label_key, validate_label_value, validate_node_labels
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "cluster.yaml").read_text()


@pytest.fixture
def cluster() -> dict[str, Any]:
    config: dict[str, Any] = prepare_config(yaml.safe_load(TEXT))
    return config


@pytest.fixture
def node_types(cluster: dict[str, Any]) -> dict[str, dict[str, Any]]:
    types: dict[str, dict[str, Any]] = cluster["available_node_types"]
    return types


def test_ray_accepts_it(cluster: dict[str, Any]) -> None:
    validate_config(cluster)


def test_region_and_instance_types_are_named(
    cluster: dict[str, Any], node_types: dict[str, Any]
) -> None:
    assert cluster["provider"]["region"] in botocore.session.get_session().get_available_regions(
        "ec2"
    )
    ec2 = botocore.session.get_session().get_service_model("ec2")
    known = set(ec2.shape_for("InstanceType").enum)
    assert {node["node_config"]["InstanceType"] for node in node_types.values()} <= known


def test_worker_limits_are_consistent(cluster: dict[str, Any], node_types: dict[str, Any]) -> None:
    workers = {name: node for name, node in node_types.items() if name != cluster["head_node_type"]}
    assert all(0 <= node["min_workers"] <= node["max_workers"] for node in workers.values())
    assert all(node["max_workers"] > 0 for node in workers.values())
    assert sum(node["max_workers"] for node in workers.values()) <= cluster["max_workers"]


def test_head_does_no_work_and_is_not_on_spot(
    cluster: dict[str, Any], node_types: dict[str, Any]
) -> None:
    head = node_types[cluster["head_node_type"]]
    assert head["resources"] == {"CPU": 0}
    assert "InstanceMarketOptions" not in head["node_config"]


def test_gpu_nodes_are_on_spot_and_data_nodes_have_no_gpu(node_types: dict[str, Any]) -> None:
    assert node_types["train"]["resources"]["GPU"] > 0
    assert node_types["train"]["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot"
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


def test_node_configs_hold_only_what_ec2_knows(node_types: dict[str, Any]) -> None:
    request = (
        botocore.session.get_session()
        .get_service_model("ec2")
        .operation_model("RunInstances")
        .input_shape
    )
    for name, node in node_types.items():
        config = dict(node["node_config"])
        assert config.pop("SubnetIds")  # Ray's own key: one of them becomes SubnetId
        assert not set(config) - set(request.members), name
        report = ParamValidator().validate({**config, "MinCount": 1, "MaxCount": 1}, request)
        assert not report.has_errors(), f"{name}: {report.generate_report()}"


def test_nothing_is_open_to_the_world(cluster: dict[str, Any], node_types: dict[str, Any]) -> None:
    assert "0.0.0.0" not in TEXT and "::/0" not in TEXT
    assert cluster["provider"]["use_internal_ips"] is True
    for node in node_types.values():
        # Without a group of its own a node gets Ray's, which admits SSH from every address.
        assert node["node_config"]["SecurityGroupIds"]
        # the way to a public address that bypasses the above
        assert "NetworkInterfaces" not in node["node_config"]
        assert node["node_config"]["MetadataOptions"]["HttpTokens"] == "required"


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
