"""deploy/grafana: what dashboard and alarms ask for is there, and every alarm is explained."""

import json
import re
from pathlib import Path

import yaml
from ray.dashboard.modules.metrics.dashboards import default_dashboard_panels

from jobs.cluster.gauges import CYCLE, DRIVER, WAITING, metric_names
from jobs.setup.command_line import parse
from jobs.training.health_watch import judge
from jobs.training.run_config import complete_pretrain

ROOT = Path(__file__).resolve().parents[2]
BOARD = json.loads((ROOT / "deploy" / "grafana" / "afield.json").read_text())
[GROUP] = yaml.safe_load((ROOT / "deploy" / "grafana" / "alarms.yaml").read_text())["groups"]
RULES = {rule["alert"]: rule["expr"] for rule in GROUP["rules"]}
ASKED = {
    (title, expression): set(re.findall(r"\bray_\w+", expression))
    for title, expression in [
        *((p["title"], target["expr"]) for p in BOARD["panels"] for target in p["targets"]),
        *RULES.items(),
        *((one["name"], one["query"]) for one in BOARD["templating"]["list"]),
    ]
}
# Read in ray-operator/controllers/ray/metrics/ray_job_metrics.go of ray-project/kuberay, and in the
# generators of Job metrics of kubernetes/kube-state-metrics.
OTHERS = {"kuberay_job_deployment_status", "kube_job_failed"}


def test_every_metric_asked_for_exists_and_every_one_of_ours_is_shown() -> None:
    rays = Path(default_dashboard_panels.__file__).read_text()
    for title, names in ASKED.items():
        for name in names - set(metric_names()):
            assert not name.startswith("ray_afield"), (title, name)
            assert re.search(rf"\b{name}\b", rays), (title, name)
    assert set(re.findall(r"\bkube\w+", " ".join(RULES.values()))) == OTHERS
    assert set(metric_names()) <= set().union(*ASKED.values())


def test_the_dashboard_is_one_that_grafana_imports() -> None:
    panels = BOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert all(panel["targets"] and panel["title"] and panel["description"] for panel in panels)
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(places) == len(panels)
    assert {one["name"] for one in BOARD["templating"]["list"]} == {"source", "run"}


def test_the_alarm_of_a_collapse_rings_where_the_run_itself_sees_one() -> None:
    words = ["simclr_small", "source.uri=/data", "out=/out", "num_steps=1"]
    settings = parse(complete_pretrain, words).health
    limits = [float(number) for number in re.findall(r"< ([\d.]+)", RULES["AfieldCollapse"])]
    assert limits == [settings.min_spread, settings.min_rankme, settings.min_variation]
    spread = limits[0]
    assert judge({"health_spread": spread - 0.01}, settings)


def test_what_rings_where_nothing_trains_is_told_by_the_driver() -> None:
    drivers = {f"ray_afield_{name}" for name in (*DRIVER, *WAITING, *CYCLE)}
    for alarm in ("AfieldNoNight", "AfieldStandsStill"):
        assert ASKED[alarm, RULES[alarm]] <= drivers


def test_every_alarm_is_explained() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    assert set(re.findall(r"^\| `(Afield\w+)`", page, re.M)) == set(RULES)
