"""Tuning on small streams: the trials, the study that is continued, and the verdict."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from service import config as configs
from service.config import ConfigError
from service.evaluation.replay import replay
from service.evaluation.tuning.replays import Stream, needed
from service.evaluation.tuning.report import remarks
from service.evaluation.tuning.samples import Objective
from service.evaluation.tuning.study import Pruner, Tried
from service.evaluation.tuning.tune import Plan, Tuned, tune
from service.process.data_folder import FolderBusy
from tests.service.evaluation.tuning.conftest import write


def plan(config: Path, stream: Path, study: str = "study.sqlite", **changes: Any) -> Plan:
    document = tomllib.loads(config.read_text())
    document["stream"]["url"] = f"file:{stream}"
    return Plan(document=document, name=config.stem, study=config.parent / study, **changes)


def outcomes(tuned: Tuned) -> list[tuple[int, str, float, dict[str, Any], dict[int, float]]]:
    """Everything about the trials but their time."""
    return [(one.number, one.state, one.value, one.params, one.steps) for one in tuned.tried]


def test_the_base_comes_first_then_the_defaults_and_the_best_is_confirmed(bad: Path, clicks: Path) -> None:
    tuned = tune(plan(bad, clicks, trials=6))
    base, defaults = tuned.tried[:2]
    assert base.params["ranker.fm.learning_rate"] == 0.005
    assert defaults.params["ranker.fm.learning_rate"] == 0.7
    assert (tuned.first, tuned.total, len(tuned.tried)) == (1800, 3000, 6)
    # The first part of the replay that anybody can run.
    part = tuned.plan.document | {"stream": tuned.plan.document["stream"] | {"url": f"file:{head(clicks, 1800)}"}}
    assert base.value == pytest.approx(replay(configs.parse(part), k=0).quality["fm"].log_loss, abs=1e-6)
    assert tuned.best.value < base.value - 0.02
    assert tuned.confirmation is not None
    assert tuned.confirmation.holds
    assert tuned.confirmation.units == 1200
    assert tuned.values == tuned.best_values


def test_keys_that_the_objective_does_not_depend_on_are_not_tuned_and_named(bad: Path, clicks: Path) -> None:
    lists = '[tune]\n"retrievers.popularity.half_life" = { low = 60.0, high = 6000.0 }\n'
    with bad.open("a") as file:
        file.write("[retrievers.popularity]\n" + lists + '"ranker.fm.learning_rate" = {}\n')
    tuned = tune(plan(bad, clicks, trials=2))
    assert {path for one in tuned.tried for path in one.params} == {"ranker.fm.learning_rate"}
    assert tuned.left_out == ["retrievers.popularity.half_life"]
    assert "log loss does not depend on it: retrievers.popularity.half_life" in " ".join(remarks(tuned))
    bad.write_text(bad.read_text().replace('"ranker.fm.learning_rate" = {}\n', ""))
    with pytest.raises(ConfigError, match="half_life: log_loss does not depend on these; tune other keys"):
        tune(plan(bad, clicks, "other.sqlite", trials=2))


def head(path: Path, rows: int) -> Path:
    part = path.with_name("head.csv")
    part.write_text("".join(path.read_text().splitlines(keepends=True)[: rows + 1]))
    return part


def test_a_continued_study_is_the_same_as_an_uninterrupted_one(
    bad: Path, clicks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tune(plan(bad, clicks, "whole.sqlite", trials=12))
    trial, runs = Stream.trial, 0

    def stopped(*arguments: Any) -> Any:
        nonlocal runs
        runs += 1
        if runs in (1, 4, 9):  # in the middle of the base, and of two others
            trial(*arguments[:3], lambda step, value: (arguments[3](step, value), interrupt(step))[0])
        return trial(*arguments)

    def interrupt(step: int) -> None:
        if step == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(Stream, "trial", stopped)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            tune(plan(bad, clicks, trials=12))
    tune(plan(bad, clicks, trials=10))
    assert outcomes(tune(plan(bad, clicks, trials=12))) == outcomes(whole)


def test_the_same_seed_has_the_same_trials_and_another_has_others(bad: Path, clicks: Path) -> None:
    one, same, other = (tune(plan(bad, clicks, f"{n}.sqlite", trials=5, seed=seed)) for n, seed in enumerate((0, 0, 1)))
    assert outcomes(one) == outcomes(same)
    assert outcomes(one)[2:] != outcomes(other)[2:]
    assert outcomes(one)[:2] == outcomes(other)[:2]


@pytest.mark.parametrize("pruner", [Pruner.MEDIAN, Pruner.HALVING])
def test_bad_trials_are_stopped_early(bad: Path, clicks: Path, pruner: Pruner) -> None:
    tuned = tune(plan(bad, clicks, trials=14, pruner=pruner))
    stopped = [one for one in tuned.tried if one.state == "stopped"]
    complete = [one for one in tuned.tried if one.state == "complete"]
    assert stopped
    assert all(1 <= len(one.steps) < 8 for one in stopped)
    assert min(one.value for one in complete) < min(one.value for one in stopped)
    assert tuned.tried[0].state == "complete"


def test_nothing_is_stopped_without_a_pruner(bad: Path, clicks: Path) -> None:
    assert {one.state for one in tune(plan(bad, clicks, trials=8, pruner=Pruner.NONE)).tried} == {"complete"}


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("objective", [Objective.LOG_LOSS, Objective.AUC])
def test_a_gain_on_shuffled_labels_is_called_noise(tmp_path: Path, bad: Path, seed: int, objective: Objective) -> None:
    wild = tmp_path / "wild.toml"
    wild.write_text(bad.read_text().replace("0.005", "3.0"))
    stream = write(tmp_path / "shuffled.csv", 3000, seed, shuffled=True)
    tuned = tune(plan(wild, stream, trials=6, objectives=(objective,), seed=seed))
    assert tuned.confirmation is None or not tuned.confirmation.holds
    assert tuned.values == {}


def test_several_processes_share_the_trials(bad: Path, clicks: Path) -> None:
    heard: list[int] = []
    tuned = tune(plan(bad, clicks, trials=6, jobs=2), lambda tried: heard.append(len(tried)))
    alone = tune(plan(bad, clicks, "alone.sqlite", trials=2))
    assert [one.number for one in tuned.tried] == list(range(6))
    assert heard[-1] == 6
    assert tuned.tried[0].value == alone.tried[0].value
    assert tuned.confirmation is not None
    assert tuned.confirmation.holds


def test_errors_come_back_from_the_processes_as_they_are(bad: Path, clicks: Path) -> None:
    bad.write_text(bad.read_text().replace('kind = "click"', 'kind = "view"'))
    with pytest.raises(ConfigError, match="'view', the kind of") as error:
        tune(plan(bad, clicks, trials=2, jobs=2))
    assert error.value.where == "reward"


def test_conditional_keys_are_tuned_with_their_sections(bad: Path, clicks: Path) -> None:
    bad.write_text(f'{bad.read_text()}\n[tune]\nranker = {{ choices = ["fm", "bias"] }}\n"ranker.bias.l2" = {{}}\n')
    tuned = tune(plan(bad, clicks, trials=8))
    ranks: list[Tried] = tuned.tried
    assert {one.params["ranker"] for one in ranks} == {"fm", "bias"}
    assert all(("ranker.bias.l2" in one.params) == (one.params["ranker"] == "bias") for one in ranks)


def test_a_trial_that_fails_is_counted_and_the_others_go_on(bad: Path, clicks: Path) -> None:
    bad.write_text(f'{bad.read_text()}\n[tune]\nranker = {{ choices = ["fm", "sequential"] }}\n')
    tuned = tune(plan(bad, clicks, trials=6))
    failed = [one for one in tuned.tried if one.state == "failed"]
    assert failed
    assert "next_item" in failed[0].reason
    assert tuned.confirmation is None


def test_a_front_weighs_quality_against_time(bad: Path, clicks: Path) -> None:
    tuned = tune(plan(bad, clicks, trials=8, objectives=(Objective.LOG_LOSS, Objective.CPU)))
    assert all(one.state == "complete" and one.micros > 0 for one in tuned.tried)
    assert tuned.front
    assert tuned.best in tuned.front
    for one in tuned.front:
        assert not any(other.value < one.value and other.micros < one.micros for other in tuned.tried)


def test_lists_are_tuned_by_their_retrievers(bad: Path, clicks: Path) -> None:
    bad.write_text(f"{bad.read_text()}\n[retrievers.item_knn]\nlast = 1\ncapacity = 64\nneighbours = 16\nusers = 64\n")
    tuned = tune(plan(bad, clicks, trials=3, objectives=(Objective.NDCG,), k=3))
    assert "retrievers.item_knn.shrink" in tuned.tried[0].params
    found = replay(configs.parse(tuned.plan.document | {"stream": tuned.plan.document["stream"]}), k=3)
    assert tuned.tried[0].value == pytest.approx(found.top_n["recommend"].ndcg, abs=0.05)


def test_what_an_objective_does_not_read_is_left_out(bad: Path) -> None:
    extra = "[retrievers.item_knn]\n[rerankers.mixture]\n[rerankers.reloop2]\n"
    config = configs.parse(tomllib.loads(f"{bad.read_text()}\n{extra}"))
    assert list(needed(config, Objective.LOG_LOSS).rerankers) == ["reloop2"]
    assert needed(config, Objective.NDCG) == config
    plain = configs.parse(tomllib.loads(f"{bad.read_text()}\n[retrievers.item_knn]\n[rerankers.mixture]\n"))
    assert needed(plain, Objective.AUC).retrievers == {}
    reads = configs.parse(tomllib.loads(f"{bad.read_text()}\n[features]\nretrieval = true\n"))
    assert needed(reads, Objective.AUC) == reads


def test_the_rows_score_the_same_without_what_is_left_out(bad: Path, clicks: Path) -> None:
    bad.write_text(f"{bad.read_text()}\n[retrievers.item_knn]\n[rerankers.mixture]\n")
    config = configs.parse(plan(bad, clicks).document)
    left = Stream(Objective.LOG_LOSS, 10, 0.6).whole(config)
    assert left.value() == pytest.approx(replay(config, k=0).quality["mixture"].log_loss, abs=1e-6)


def test_a_study_of_something_else_is_refused(bad: Path, clicks: Path, tmp_path: Path) -> None:
    tune(plan(bad, clicks, trials=2))
    with pytest.raises(ConfigError, match="another --first, --seed"):
        tune(plan(bad, clicks, trials=2, share=0.5, seed=2))
    (tmp_path / "text.sqlite").write_text("this is no study" * 100)
    with pytest.raises(ConfigError, match="not a file of a study"):
        tune(plan(bad, clicks, "text.sqlite", trials=2))


def test_a_study_has_one_process(bad: Path, clicks: Path) -> None:
    def again(_: object) -> None:
        with pytest.raises(FolderBusy, match="another process tunes"):
            tune(plan(bad, clicks, trials=2))

    tune(plan(bad, clicks, trials=2), again)
