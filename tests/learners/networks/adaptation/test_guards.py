"""Guards on numbers with a known answer."""

from __future__ import annotations

import numpy as np
import pytest

from learners.networks.adaptation.guards import LabelGate, Limits, Watch

N = 100


def watched(source: np.ndarray, adapted: np.ndarray, entropy: float = 1.0) -> Watch:
    watch = Watch(Limits(), window=N, recent=8)
    ones = np.ones(source.size, np.float32)
    watch.add(source, adapted, ones, entropy * ones)
    return watch


def test_the_same_choices_pass():
    items = np.arange(N) % 10
    watch = watched(items, items)
    assert watch.verdict() == ""
    assert (watch.entropy_ratio, watch.agreement, *watch.concentration()) == (1.0, 1.0, 1.0, 1.0)


@pytest.mark.parametrize(("entropy", "guard"), [(0.89, "entropy_ratio"), (0.91, "")])
def test_entropy_may_fall_by_a_tenth(entropy, guard):
    assert watched(np.arange(N) % 10, np.arange(N) % 10, entropy).verdict() == guard


def test_choices_may_not_gather_on_one_item():
    source = np.arange(N) % 10
    watch = watched(source, np.where(np.arange(N) % 10 < 2, 7, source))  # items 0 and 1 become item 7, of which there are 30
    share, entropy = watch.concentration()
    assert share == pytest.approx(3.0)
    assert entropy == pytest.approx((-0.3 * np.log(0.3) - 0.7 * np.log(0.1)) / np.log(10))
    assert watch.verdict() == "concentration"


@pytest.mark.parametrize(("changed", "guard"), [(31, "agreement"), (29, "")])
def test_most_requests_keep_their_best_item(changed, guard):
    source = np.arange(N) % 10
    # Choices change places in pairs, so that they are as many as before.
    adapted = np.where(np.arange(N) < changed, (source + 1) % 10, source)
    assert watched(source, adapted).verdict() == guard


def test_few_requests_are_not_judged():
    assert watched(np.arange(4), np.zeros(4, np.int64)).verdict() == ""


def gate_with(adapted: float, clicks: float, events: int = 200, source: float = 0.0) -> LabelGate:
    """Events of ten rows each, of which a share is clicked; logits are the same everywhere."""
    gate, rng = LabelGate(Limits(), 400), np.random.default_rng(0)
    request = np.repeat(np.arange(events), 10)
    label = (rng.random(request.size) < clicks).astype(np.float32)
    logits = np.full((2, request.size), [[source], [adapted]], np.float32)
    gate.add(request, request.astype(np.float64), *logits, label, np.ones_like(label))
    gate.close(np.array([float(events)]))
    return gate


def test_the_gate_measures_the_gain_in_standard_errors():
    gate = gate_with(adapted=-1.0, clicks=0.3)
    gains = gate.gains
    assert gate.z == pytest.approx(gains.mean() / (gains.std(ddof=1) / np.sqrt(200)))
    assert gate.z > 2 and gate.verdict() == ""
    losses = gate.losses()
    assert losses.source == pytest.approx(np.log(2), abs=1e-6)
    assert losses.adapted < losses.source
    assert losses.source_ratio == pytest.approx(0.5 / 0.3, rel=0.1)


def test_a_change_for_the_worse_is_found_out():
    assert gate_with(adapted=1.0, clicks=0.5).verdict() == "labels"


def test_predictions_must_be_as_many_as_clicks():
    within = gate_with(source=-0.9, adapted=-0.8, clicks=0.3)  # 31 % instead of 29 %
    assert within.verdict() == ""
    gate = LabelGate(Limits(z=1e9), 400)
    source = gate_with(source=-0.9, adapted=0.0, clicks=0.3)  # 50 %
    gate.window, gate.closed = source.window, source.closed
    assert gate.verdict() == "calibration"
    nearer = gate_with(source=1.0, adapted=0.0, clicks=0.3)  # 73 % without the change
    gate.window = nearer.window
    assert gate.verdict() == "", "it is better than nothing"


def test_clicks_count_when_it_is_known_what_was_left_alone():
    """A change that raises all predictions looks good on clicks alone."""
    gate = LabelGate(Limits(), 40)
    ones = np.ones(40, np.float32)
    gate.add(np.arange(40), np.arange(40.0), 0 * ones, np.linspace(0.9, 1.1, 40, dtype=np.float32), ones, ones)
    assert gate.z == 0 and gate.gains.size == 0
    gate.close(np.array([19.0]))
    assert gate.gains.size == 20
    gate.close(np.array([5.0]))
    assert gate.gains.size == 20 and gate.z > 2
