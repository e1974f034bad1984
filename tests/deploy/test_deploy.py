"""What `deploy/` says fits together, and fits the code: no Docker is needed to see that."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from typer.main import get_command

from service import cli
from service import config as configs
from service.http.app import create_app
from service.http.security.keys import Keys
from service.monitoring.monitor import Monitor
from service.monitoring.prometheus import LABELLED
from service.process.runtime import build_pipeline, open_runtime
from service.process.topics import required_topics
from tests.worlds import busy_world

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
FRESHET = {name: service for name, service in SERVICES.items() if service["image"].startswith("freshet:")}
REPLICAS = {name: service for name, service in FRESHET.items() if "--replica" in service["command"]}
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana/dashboards/freshet.json").read_text())
ALERTS: dict[str, Any] = yaml.safe_load((DEPLOY / "alerts.yml").read_text())


@pytest.mark.parametrize("path", [*DEPLOY.rglob("*.y*ml"), *DEPLOY.rglob("*.json")], ids=lambda path: path.name)
def test_every_file_can_be_read(path: Path) -> None:
    assert (yaml.safe_load if path.suffix != ".json" else json.loads)(path.read_text())


# ---- configs


@pytest.mark.parametrize("path", [*DEPLOY.glob("*.toml")], ids=lambda path: path.name)
def test_every_config_loads_and_builds(path: Path) -> None:
    assert build_pipeline(configs.load(path)).nbytes > 0


def test_the_config_names_topics_on_the_broker_of_the_compose_file() -> None:
    topics = required_topics(configs.load(DEPLOY / "freshet.toml"))
    assert [one.use for one in topics] == ["events", "weights", "dead letters"]
    inside = re.findall(r"INSIDE://([\w:]+)", SERVICES["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"])
    assert {one.servers for one in topics} == set(inside)


# ---- compose.yaml


@pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)
def test_images_have_a_version(service: dict[str, Any]) -> None:
    _, _, tag = service["image"].partition(":")
    assert re.search(r"\d", tag)
    assert "latest" not in tag


def test_freshet_s_image_has_freshet_s_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert {service["image"] for service in FRESHET.values()} == {f"freshet:{version}"}
    assert f"-t freshet:{version} " in DOCKERFILE
    gpu = yaml.safe_load((DEPLOY / "compose.gpu.yaml").read_text())["services"]
    assert {service["image"] for service in gpu.values()} == {f"freshet:{version}-gpu"}
    assert gpu.keys() == {"trainer", *REPLICAS}


def test_what_a_service_waits_for_can_happen() -> None:
    for service in SERVICES.values():
        for other, on in service.get("depends_on", {}).items():
            condition = on["condition"]
            assert condition in ("service_healthy", "service_completed_successfully")
            ends = SERVICES[other]["restart"] == "no"
            assert ends == (condition == "service_completed_successfully"), other
            if condition == "service_healthy":
                assert "healthcheck" in SERVICES[other] or other in FRESHET, other
    assert all("trainer" in service["depends_on"] for service in REPLICAS.values())


def mounts(service: dict[str, Any]) -> Iterator[tuple[str, str, bool]]:
    for volume in service.get("volumes", ()):
        source, target, *mode = volume.split(":")
        yield source, target, mode == ["ro"]


def test_what_is_mounted_is_there() -> None:
    for name, service in SERVICES.items():
        for source, _, readonly in mounts(service):
            if source.startswith("."):
                assert (DEPLOY / source).exists(), f"{name}: {source}"
                assert readonly, f"{name}: {source}"
            else:
                assert source in COMPOSE["volumes"], f"{name}: {source}"


def test_replicas_cannot_write_the_checkpoints() -> None:
    folder = configs.load(DEPLOY / "freshet.toml").checkpoint.folder
    assert len(REPLICAS) == 2
    for service in REPLICAS.values():
        assert ("checkpoints", folder, True) in list(mounts(service))
    assert ("checkpoints", folder, False) in list(mounts(SERVICES["trainer"]))
    writers = [name for name, service in SERVICES.items() if any(m[0] == "checkpoints" and not m[2] for m in mounts(service))]
    assert writers == ["trainer"]


def test_ports_are_open_to_this_machine_only() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert {port.split(":")[0] for port in ports} == {"127.0.0.1"}
    published = [port.split(":")[1] for port in ports]
    assert len(published) == len(set(published))
    assert {"8001", "8002"} <= set(published)


def test_every_process_has_the_keys_that_the_script_makes(tmp_path: Path) -> None:
    script = shutil.copy(DEPLOY / "keys.sh", tmp_path)
    printed = subprocess.run(["sh", script], capture_output=True, text=True, check=True).stdout
    made = tmp_path / ".env"
    assert made.stat().st_mode & 0o777 == 0o600
    variables = dict(line.split("=", 1) for line in made.read_text().splitlines())
    keys = Keys(variables["FRESHET_API_KEYS"])
    shop, operator = re.findall(r"freshet_[\w-]{43}", printed)
    for key, scopes in (
        (shop, {"read", "write"}),
        (operator, {"read", "write", "admin", "metrics"}),
        (variables["PROMETHEUS_KEY"], {"metrics"}),
    ):
        found = keys.find(key.encode())
        assert found is not None and found.scopes == scopes
    assert shop not in made.read_text() and operator not in made.read_text()
    assert subprocess.run(["sh", script], capture_output=True, check=False).returncode == 1, (
        "keys are never replaced in silence"
    )
    for service in FRESHET.values():
        assert service["environment"]["FRESHET_API_KEYS"].startswith("${FRESHET_API_KEYS:?")
    assert ".env" in (ROOT / ".gitignore").read_text()


def test_prometheus_shows_its_key() -> None:
    (job,) = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())["scrape_configs"]
    (secret,) = SERVICES["prometheus"]["secrets"]
    assert job["authorization"] == {"credentials_file": f"/run/secrets/{secret}"}
    assert COMPOSE["secrets"][secret] == {"environment": "PROMETHEUS_KEY"}


def test_nobody_can_change_what_grafana_shows() -> None:
    environment = SERVICES["grafana"]["environment"]
    assert environment["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    assert (environment["GF_AUTH_BASIC_ENABLED"], environment["GF_AUTH_DISABLE_LOGIN_FORM"]) == ("false", "true")


@pytest.mark.parametrize("service", FRESHET.values(), ids=FRESHET)
def test_every_command_exists(service: dict[str, Any]) -> None:
    command, words = get_command(cli.app), list(service["command"])
    while hasattr(command, "commands"):
        word = words.pop(0)
        assert word in command.commands, f"freshet has no {word}"
        command = command.commands[word]
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known


# ---- Dockerfile


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"(?m)^\s*#.*\n", "", DOCKERFILE)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [(line.split()[0], line.partition(" ")[2]) for line in lines if line.strip()]


def stages() -> dict[str, list[tuple[str, str]]]:
    """Instructions by stage, those of the stages that it begins with included."""
    found: dict[str, list[tuple[str, str]]] = {}
    for word, rest in instructions():
        if word == "FROM":
            base, _, name = rest.split()
            found[name] = list(found.get(base, ()))
            current = name
        elif found:
            found[current].append((word, rest))
    return found


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_both_images_run_as_nobody_special_and_say_how_they_are(target: str) -> None:
    stage = stages()[target]
    last = dict(stage)
    user, group = map(int, last["USER"].split(":"))
    assert user > 0 < group
    assert f"useradd --uid {user} --gid {group} " in DOCKERFILE
    assert f"--owner={user} --group={group} {configs.load(DEPLOY / 'freshet.toml').checkpoint.folder} " in DOCKERFILE
    assert "/healthz" in last["HEALTHCHECK"]
    assert "CMD" in last["HEALTHCHECK"]
    assert last["ENTRYPOINT"] == '["freshet"]'
    copied = [rest for word, rest in stage if word == "COPY"]
    assert f"--from={target}-packages /opt/freshet /opt/freshet" in copied


def test_the_health_check_asks_where_the_service_listens() -> None:
    healthcheck = dict(stages()["cpu"])["HEALTHCHECK"]
    assert re.findall(r"http://127\.0\.0\.1:(\d+)/healthz", healthcheck) == [str(configs.parse({}).server.port)]
    for service in FRESHET.values():
        for port in service.get("ports", ()):
            assert port.split(":")[2] == "8000"


def test_what_is_copied_into_the_image_is_there_and_not_ignored() -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied: set[str] = set()
    for word, rest in instructions():
        if word == "COPY" and not rest.startswith("--from"):
            copied |= set(rest.split()[:-1])
    assert copied | {"deploy/freshet.toml"} == kept
    for path in kept:
        assert (ROOT / path).exists(), path
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]["include"]
    assert {package.rstrip("*") for package in packages} <= copied


def test_what_is_copied_from_a_stage_is_of_a_stage() -> None:
    for source in re.findall(r"--from=([\w-]+)|,from=([\w-]+)", DOCKERFILE):
        assert "".join(source) in stages()


def test_the_image_is_tried_with_the_learners_of_the_config_and_without_a_broker() -> None:
    runs = [rest for word, rest in stages()["cpu"] if word == "RUN"]
    _, _, arguments = runs[-1].partition(" freshet ")
    assert arguments.split() == ["warmup", "--config", "/deploy/freshet.toml"]
    local = arguments.replace("/deploy", str(DEPLOY)).split()
    assert get_command(cli.app).main(local, standalone_mode=False) is None, "an exit code says what failed"


# ---- what is measured


@asynccontextmanager
async def served() -> AsyncIterator[httpx.AsyncClient]:
    """The service with one of everything, after some events."""
    runtime = open_runtime(configs.parse({"features": {"user": {"id": "category"}, "item": {"id": "category"}}}))
    app = create_app(runtime)
    client = httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://localhost", timeout=60)
    async with app.router.lifespan_context(app), client:
        yield client


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def named() -> set[str]:
    """Metrics that the dashboard and the alarms ask for."""
    asked = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]
    asked += [rule["expr"] for group in ALERTS["groups"] for rule in group["rules"]]
    return set(re.findall(r"\bfreshet_\w+", " ".join(asked)))


@pytest.mark.anyio
async def test_what_is_watched_is_measured() -> None:
    async with served() as client:
        (await client.post("/v1/events", json=msgspec.to_builtins(list(busy_world(seed=1, length=60))))).raise_for_status()
        (await client.post("/v1/rank", json={"user": "u1", "items": ["i1", "i2"]})).raise_for_status()
        text = (await client.get("/metrics")).text
    families = {family.name: family for family in text_string_to_metric_families(text)}
    suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum"), "gauge": ("",)}
    exported = {name + suffix for name, family in families.items() for suffix in suffixes[family.type]}
    assert named() - exported == set()
    assert len(named()) > 15


def labels() -> dict[str, set[str]]:
    """Labels of each metric, when everything has happened."""
    gauges: dict[str, Any] = {name: {"x": 1} for name in LABELLED}
    clocks = {"clock_stuck_seconds": 0.0, "clock_lead_seconds": 0.0}
    monitor = Monitor(lambda: gauges | clocks | {"version": 1, "lag": 1, "lag_seconds": 1.0})
    found = {"learner": {"freshet_auc", "freshet_logloss", "freshet_drift_alarms_total"}, "source": {"freshet_click_through"}}
    by_metric = {name: {label} for label, names in found.items() for name in names}
    for family in text_string_to_metric_families(monitor.metrics().decode()):
        for sample in family.samples:
            by_metric.setdefault(sample.name, set()).update(sample.labels)
    return by_metric


@pytest.mark.parametrize(
    "panel", [panel for panel in DASHBOARD["panels"] if "targets" in panel], ids=lambda panel: panel["title"]
)
def test_a_panel_divides_by_labels_that_there_are(panel: dict[str, Any]) -> None:
    of_targets, known = {"instance", "role", "job", "le"}, labels()
    for target in panel["targets"]:
        metrics = re.findall(r"\bfreshet_\w+", target["expr"])
        there = of_targets.union(*(known[metric] for metric in metrics))
        used = re.findall(r"{{(\w+)}}", target["legendFormat"])
        used += [label for by in re.findall(r"by \(([^)]*)\)", target["expr"]) for label in re.findall(r"\w+", by)]
        assert set(used) <= there, target


def test_alarms_say_what_to_do_and_divide_by_labels_that_there_are() -> None:
    of_targets, known = {"instance", "role", "job"}, labels()
    for rule in (rule for group in ALERTS["groups"] for rule in group["rules"]):
        assert rule["labels"]["severity"] in ("page", "ticket", "info")
        assert rule["annotations"]["description"]
        there = of_targets.union(*(known[metric] for metric in re.findall(r"\bfreshet_\w+", rule["expr"])))
        text = rule["annotations"]["summary"] + " ".join(re.findall(r"by \(([^)]*)\)", rule["expr"]))
        assert set(re.findall(r"\$labels\.(\w+)", text)) <= there
    tested = (Path(__file__).parent / "alerts_test.yml").read_text()
    for rule in (rule for group in ALERTS["groups"] for rule in group["rules"]):
        assert f"alertname: {rule['alert']}\n" in tested


def test_prometheus_asks_every_process() -> None:
    prometheus = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    (job,) = prometheus["scrape_configs"]
    targets = {target: one["labels"]["role"] for one in job["static_configs"] for target in one["targets"]}
    assert targets == {"trainer:8000": "trainer"} | {f"{name}:8000": "replica" for name in REPLICAS}
    mounted = {Path(target).name for _, target, _ in mounts(SERVICES["prometheus"])}
    assert set(prometheus["rule_files"]) <= mounted
    assert prometheus["scrape_configs"][0]["job_name"] in ALERTS["groups"][0]["rules"][0]["expr"]


def test_grafana_finds_its_source_and_its_dashboard() -> None:
    (source,) = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"]
    (provider,) = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/freshet.yml").read_text())["providers"]
    asked = {panel["datasource"]["uid"] for panel in DASHBOARD["panels"] if "datasource" in panel}
    asked |= {target["datasource"]["uid"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())}
    assert asked == {source["uid"]}
    host = re.findall(r"http://(\w+):9090", source["url"])
    assert host == ["prometheus"]
    by_target = {target: origin for origin, target, _ in mounts(SERVICES["grafana"])}
    assert (DEPLOY / by_target[provider["options"]["path"]] / "freshet.json").exists()
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{provider['options']['path']}/freshet.json"


def test_panels_do_not_overlap() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert taken.setdefault((x, y), panel["title"]) == panel["title"]
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))


# ---- the tools themselves, where they are at hand


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("hadolint", ["deploy/Dockerfile"]),
        ("docker-compose", ["-f", "deploy/compose.yaml", "config", "-q"]),
        ("docker-compose", ["-f", "deploy/compose.yaml", "-f", "deploy/compose.gpu.yaml", "config", "-q"]),
        ("promtool", ["check", "config", "deploy/prometheus.yml"]),
        ("promtool", ["test", "rules", "tests/deploy/alerts_test.yml"]),
    ],
)
def test_the_tools_agree(tool: str, arguments: list[str]) -> None:
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed")
    variables = os.environ | {"FRESHET_API_KEYS": "made by keys.sh", "PROMETHEUS_KEY": "made by keys.sh"}
    done = subprocess.run([tool, *arguments], cwd=ROOT, env=variables, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
