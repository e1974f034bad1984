"""What both adapters of normalisations do: measure, serve, follow versions of the network, and obey their guards."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from learners.contract.small import bind_to_world
from learners.contract.worlds import batch_of, world
from learners.networks.adaptation.guarded import GuardedAdapter
from learners.rankers.bias import Bias
from learners.rankers.deep import Deep
from memory.stateful import digest
from tests.adaptable import Linear
from tests.learners.adapters.changing import FREE, SMALL, fired, late_labels, moved, sar, teach_worlds

Make = Callable[..., GuardedAdapter]
both = pytest.mark.parametrize("make", [sar, late_labels])


def rows(seed: int = 1):
    return batch_of(world(seed))


def harm(guard: str, adapter: GuardedAdapter) -> np.ndarray:
    """A change on which this guard has to fire."""
    if guard in ("entropy_ratio", "concentration"):  # of a network that counts for more beside the machine
        # With this sign, doubled scales lower the entropy.
        adapter.ranker.network.module.out.data *= -8 if guard == "entropy_ratio" else 8  # type: ignore[attr-defined]
    if guard == "entropy_ratio":
        shapes = adapter.ranker.adaptable()
        return np.concatenate([np.full(shapes[name], float(name.endswith("weight"))) for name in adapter.changes])
    seed, size = (3, 2.0) if guard == "concentration" else (4, 0.6)
    return size * np.random.default_rng(seed).normal(size=adapter.delta.size)


@both
@pytest.mark.parametrize(
    ("guard", "limit"),
    [
        ("entropy_ratio", {"entropy_ratio": 0.999}),
        ("concentration", {"top_share": 1.2}),
        ("agreement", {"agreement": 0.98}),
        ("calibration", {"calibration": (0.9, 1.1)}),
        ("labels", {"gate_z": 2.0}),
    ],
)
def test_a_harmful_change_is_stopped_by_each_guard(make: Make, guard: str, limit: dict[str, object]) -> None:
    adapter = make(**FREE | limit)
    adapter.delta[:] = harm(guard, adapter)
    adapter.learn_shown = adapter.learn_labels = lambda *_: None  # type: ignore[method-assign]
    for seed in range(5, 9):
        adapter.observe(rows(seed))
        if guard not in fired(adapter):
            adapter.learn(world(seed))
    assert fired(adapter) == {guard}
    assert adapter.metrics()["resets"] == 1
    assert not adapter.delta.any() and adapter.adapt(rows()) == {}


@both
def test_numbers_that_are_not_finite_lead_to_the_base(make: Make) -> None:
    adapter = make(**FREE)
    adapter.delta[3] = np.nan
    adapter.observe(rows())
    assert fired(adapter) == {"non_finite"}
    assert not adapter.delta.any() and adapter.paused


@both
def test_a_change_that_is_too_long_is_dropped(make: Make) -> None:
    adapter = make(**FREE | {"max_norm": 1e-4})
    teach_worlds(adapter, range(5, 8))
    assert fired(adapter) == {"norm"}
    assert not adapter.delta.any()


def test_a_collapse_of_entropy_leads_to_the_base() -> None:
    adapter = sar(**FREE | {"min_entropy": 0.999})
    teach_worlds(adapter, range(5, 8))
    assert fired(adapter) == {"entropy"}


@both
def test_after_a_reset_it_pauses_and_each_time_longer(make: Make) -> None:
    adapter, pauses = make(**FREE), []
    for _ in range(3):
        adapter.reset("labels")
        pauses.append(int(adapter.metrics()["paused"]))
    assert pauses == [64, 128, 256]
    before = adapter.metrics()["steps"]
    teach_worlds(adapter, range(5, 7))
    assert adapter.metrics()["steps"] == before and not adapter.delta.any()
    assert adapter.metrics()["paused"] == 256 - sum(world(seed).user.size for seed in (5, 6))
    teach_worlds(adapter, range(7, 10))
    assert adapter.metrics()["steps"] > before


@both
def test_a_new_version_of_the_network_begins_without_a_change(make: Make) -> None:
    ranker = bind_to_world(Deep(bits=10, factors=4, hidden=8, publish_every=400, network_learning_rate=0.01))
    adapter = bind_to_world(type(make())(ranker, **SMALL | FREE | {"learning_rate": 0.02}))
    versions = []
    for seed in range(20, 32):
        adapter.observe(rows(seed))
        version = ranker.version
        ranker.learn(world(seed))
        moving = adapter.delta.any()
        adapter.learn_labels = lambda *_: None  # type: ignore[method-assign]
        adapter.learn(world(seed))
        if ranker.version != version:
            assert not adapter.delta.any()
            versions.append(moving)
        del adapter.learn_labels
        adapter.learn(world(seed))
    assert len(versions) > 3 and any(versions), "some changes were dropped"


def test_what_labels_show_to_be_better_is_served() -> None:
    adapter, shadow = late_labels(), late_labels(mode="shadow")
    before = digest(adapter.ranker.state_dict())
    for each in (adapter, shadow):
        teach_worlds(each, range(5, 20), chance=moved)
    metrics = adapter.metrics()
    assert metrics["serving"] == 1 and metrics["label_gate"] > 2
    assert metrics["log_loss_adapted"] < metrics["log_loss"] - 0.005
    delta = adapter.adapt(rows())
    assert delta.keys() == set(adapter.changes) == set(adapter.ranker.norms())
    plain, changed = rows(), rows()
    adapter.ranker.score(plain)
    adapter.ranker.score(changed, delta)
    assert changed.score.mean() < plain.score.mean() - 0.02, "rewards have become fewer"
    assert digest(adapter.ranker.state_dict()) == before
    assert shadow.adapt(rows()) == {}
    assert shadow.metrics() == dict(metrics) | {"serving": 0.0}, "the shadow measures the same"


def test_certainty_that_labels_do_not_confirm_is_not_served() -> None:
    adapter = sar(**FREE | {"gate_z": 2.0}, max_norm=1e3)
    teach_worlds(adapter, range(5, 25), chance=lambda u, i: np.full(u.size, 0.3))
    assert adapter.metrics()["resets_labels"] > 0
    assert adapter.metrics()["serving"] == 0


def test_what_a_change_scored_before_a_reset_does_not_count_after_it() -> None:
    adapter = late_labels(**FREE)
    adapter.learn_labels = lambda *_: None  # type: ignore[method-assign]
    adapter.delta[:] = 0.1
    adapter.observe(rows(5))
    adapter.reset("labels")
    adapter.learn(world(5))
    assert len(adapter.gate.window) == 0
    assert len(adapter.calibration.shares) > 0


def test_rows_whose_predictions_were_dropped_are_counted() -> None:
    adapter = late_labels(pending=64)
    adapter.observe(rows(5))
    assert adapter.metrics()["dropped"] == len(set(zip(rows(5).request, rows(5).item, strict=True))) - 64


@both
def test_rankers_without_layers_are_refused(make: Make) -> None:
    cls = type(make())
    with pytest.raises(ValueError, match="ranker: Bias has no parameters to adapt"):
        cls(bind_to_world(Bias()))
    with pytest.raises(ValueError, match="ranker: Deep has no parameters to adapt"):
        cls(bind_to_world(Deep(bits=8, depth=0)))
    with pytest.raises(ValueError, match="ranker: Linear has no layer normalisations; choose deep or dsl"):
        cls(bind_to_world(Linear()))
