from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.config import parse
from service.manual import pages
from service.process.runtime import open_runtime
from service.reference.keys import all_learners, learner_keys, section_keys, tables
from service.reference.metrics import families


@pytest.fixture(scope="module")
def manual() -> dict[str, str]:
    return pages()


def test_each_key_has_a_line(manual: dict[str, str]) -> None:
    for section in ["", *tables()]:
        for key in section_keys(section):
            assert f"| `{key.name}` | {key.type.split('matching')[0]}" in manual["reference/config.md"]
    for section, name, _ in all_learners():
        for key in learner_keys(section, name):
            assert f"| `{key.name}` |" in manual[f"reference/learners/{name}.md"]


def test_each_metric_of_a_service_has_a_line_and_each_line_has_a_metric(manual: dict[str, str]) -> None:
    with open_runtime(parse({})) as runtime:
        scraped = {family.name for family in text_string_to_metric_families(runtime.monitor.metrics().decode())}
        scraped = {name for name in scraped if not name.endswith("_created")}
    described = {family.name.removesuffix("_total") for family in families()}
    # Those without a value yet are not scraped.
    assert scraped <= described
    assert all(f"| `{family.name}` | {family.type} |" in manual["reference/metrics.md"] for family in families())
    assert {"freshet_lag_seconds", "freshet_learner", "freshet_request_seconds"} <= described


def test_labels_are_those_of_the_metrics() -> None:
    labels = {family.name: family.labels for family in families()}
    assert labels["freshet_learner"] == ("learner", "metric")
    assert labels["freshet_failures_total"] == ("what",)
    assert labels["freshet_lag"] == ()


def test_commands_routes_and_events_are_there(manual: dict[str, str]) -> None:
    assert "## `freshet topics create`" in manual["reference/commands.md"]
    assert "--batch-rows" in manual["reference/commands.md"]
    assert "## `POST /v1/recommend`" in manual["reference/http.md"]
    assert "## `interaction`" in manual["reference/events.md"]
    assert "| `request_id` | a text at least 1 character, at most 256 characters; required |" in manual["reference/events.md"]
