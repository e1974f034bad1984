"""The metrics that a service can expose to Prometheus, whether or not they have values yet."""

from __future__ import annotations

from typing import NamedTuple

from service.monitoring.prometheus import GAUGES, LABELLED, QUALITIES, Families
from service.monitoring.timing import LATENCY, Freshness

__all__ = ["Family", "families"]


class Family(NamedTuple):
    """A metric.

    Attributes
    ----------
    name : str
        As in queries: a counter's ends in ``_total``.
    type : {"counter", "gauge", "histogram"}
    labels : tuple of str
    text : str
    """

    name: str
    type: str
    labels: tuple[str, ...]
    text: str


def families() -> list[Family]:
    """Return all metrics, in order of their names."""
    snapshot = {
        **dict.fromkeys(["events", "corrections", "learn_rate", *GAUGES], 0.0),
        **{name: {"": 0.0} for name in LABELLED},
        "metrics": {"": {"": 0.0}},
        "learners": {"": dict.fromkeys([*QUALITIES, "alarms"], 0.0)},
        "sources": {"": {"ctr": 0.0}},
    }
    found = [Family(LATENCY[0], "histogram", (), LATENCY[1])]
    for family in Families(lambda: snapshot, Freshness().histogram).collect():
        suffix = "_total" if family.type == "counter" else ""
        labels = tuple(name for name in family.samples[0].labels if name != "le") if family.samples else ()
        found.append(Family(family.name + suffix, family.type, labels, family.documentation))
    return sorted(found)
