"""Evaluates the policy of a configuration on a log: learn from the log, and record what the policy would have shown."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain as chained
from itertools import count
from pathlib import Path

import msgspec

from learners.features import hash_ids
from service.config import Config, ConfigError
from service.evaluation.calibration import calibrated
from service.evaluation.counterfactual import (
    Counterfactual,
    EmpiricalPolicy,
    PipelinePolicy,
    TargetPolicy,
    UndefinedDistribution,
)
from service.evaluation.estimators import Decisions, NotEvaluable
from service.evaluation.recordings import RecordedAdmission, open_stream
from service.evaluation.replay import builder_for_log, open_trainer, remaining_batches
from service.evaluation.verdict import OffPolicyResult, judge
from service.learning.feedback import FeedbackBuilder
from service.learning.fold import Fold
from service.process.runtime import build_pipeline, joiners
from service.ranking.pipeline import Pipeline
from service.urls import path_of, scheme_of
from streams.block import Block
from streams.dead_letters import DeadLetters
from streams.events import Impression
from streams.joined import JoinedBatch, Outcome, TrackedImpression
from streams.log import MemoryLog
from streams.readers.decisions import Decision, open_decisions
from streams.recorded import Recording

__all__ = ["EvaluatedPolicy", "evaluate", "policy_of_log"]


@dataclass(slots=True, kw_only=True)
class EvaluatedPolicy:
    """Result of evaluating one policy on one log.

    Attributes
    ----------
    policy, log : str
        Name of the configuration, or of the log used as the policy; and the log that it was evaluated on.
    above : str
        What fills the positions above: ``policy`` or ``log``.
    positions : int or None
        Number of positions that count; None: all.
    result : OffPolicyResult
    left_out : dict
        Number of excluded impressions by reason: without propensities, window still open, or repeated.
    dead : dict
        Number of invalid lines or records by reason.
    letters : list of str
        Messages of the last invalid lines or records.
    request_ids : list of str
        Request ids of the impressions, in the order of the log.
    decisions : Decisions
        Decisions of these impressions, with calibrated predictions.
    """

    policy: str
    log: str
    above: str
    positions: int | None
    result: OffPolicyResult
    left_out: dict[str, int]
    dead: dict[str, int]
    letters: list[str]
    request_ids: list[str]
    decisions: Decisions


def evaluate(
    config: Config,
    *,
    chooser: TargetPolicy | None = None,
    positions: int | None = None,
    chain: bool = True,
    clip: float | None = None,
    confidence: float = 0.95,
    floor: float = 100.0,
    ledger: Path | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> EvaluatedPolicy:
    """Estimate the mean reward that a policy would have got on a log.

    Parameters
    ----------
    config : Config
        Defines the pipeline that learns from the log, and whose policy is evaluated. Its ``[stream]`` names the log:
        ``lmdb:///...``, ``kafka://...``, or ``file:...`` in the format ``open_bandit``, ``dsjson`` or ``events``.
    chooser : TargetPolicy or None
        Another policy to evaluate. The pipeline then only predicts rewards.
    positions, chain, seed
        See `Counterfactual`; `positions` is its `positions`.
    clip, confidence, floor
        See `service.evaluation.verdict.judge`.
    ledger : Path or None
        See `service.evaluation.replay.replay`.
    limit : int or None
        Estimate from this many impressions, the first whose outcome is known; None: from all.

    Raises
    ------
    ConfigError
        For a config that cannot be built, or a url that cannot be read.
    NotEvaluable
        For a log without usable decisions.
    streams.recorded.BadRecording
        For a file that cannot be read in its format.
    """
    with ExitStack() as opened:
        pipeline = build_pipeline(config)
        rewards = {"reward": 1.0, "click": 1.0} | config.reward
        is_log, is_events = scheme_of(config.stream.url) in ("lmdb", "kafka"), config.stream.format == "events"
        window = config.stream.window if is_log or is_events else 0.0
        chooser = PipelinePolicy(pipeline.policy) if chooser is None else chooser
        counterfactual = Counterfactual(pipeline, chooser, positions=positions, chain=chain, window=window, seed=seed)
        dead = DeadLetters(MemoryLog())
        importance: dict[str, float] = {}
        builder = builder_for_log(config, pipeline) if is_log else FeedbackBuilder(pipeline, rewards)
        if is_log:
            trainer = open_trainer(opened, config, pipeline, builder, dead, ledger)
            trainer.restore()
            batches: Iterator[JoinedBatch] = chained(trainer.reader.batches(), remaining_batches(trainer))
        elif is_events:
            recording = open_stream(config, rewards)
            batches, dead = _from_events(recording, config, pipeline), recording.dead
        else:
            batches, dead = _from_decisions(config, pipeline, counterfactual, importance)
        fold = Fold(pipeline, builder)
        if not is_log:
            pipeline.isolation.reports.append(lambda problem: dead.put("poison", problem, b"", source=config.stream.url))
        try:
            for joined in batches:
                counterfactual.add_impressions([one.impression for one in joined.shown], importance)
                importance.clear()
                feedback = fold.joined(joined)
                if feedback is not None:
                    counterfactual.add_outcomes(joined.rows, feedback.reward)
        except UndefinedDistribution as error:
            raise NotEvaluable(f"{config.stream.url}: {error}") from error
        found = counterfactual.decisions()
        if found is None:
            raise NotEvaluable(_no_decisions(config.stream.url, counterfactual, window))
        ids, decisions = found[0][:limit], calibrated(found[1].head(limit))
        return EvaluatedPolicy(
            policy=config.name,
            log=config.stream.url,
            above="policy" if chain else "log",
            positions=positions,
            result=judge(decisions, clip=clip, confidence=confidence, floor=floor, seed=seed),
            left_out={reason: count for reason, count in counterfactual.left_out.items() if count},
            dead=dict(dead.counts),
            letters=[letter.reason for letter in dead.read(10)],
            request_ids=ids,
            decisions=decisions,
        )


def policy_of_log(path: Path, *, strict: bool = False) -> EmpiricalPolicy:
    """Return a policy that shows each item at a position as often as this file of the Open Bandit Dataset does.

    Raises
    ------
    streams.recorded.BadRecording
        If the file is not of that dataset.
    """
    log = open_decisions(path, format="open_bandit", strict=strict)
    return EmpiricalPolicy(one for one in log.read() if isinstance(one, Decision))


def _from_events(recording: Recording, config: Config, pipeline: Pipeline) -> Iterator[JoinedBatch]:
    """Batches of a file of native events, with the same bounds as in a log of these events."""
    joiner, offset = joiners(config, 1)(), count()
    for event in recording.events():
        assert not isinstance(event, Block)
        pipeline.apply(event)
        yield from joiner.push(next(offset), 0.0, event)
    yield from joiner.finish()


def _from_decisions(
    config: Config, pipeline: Pipeline, counterfactual: Counterfactual, importance: dict[str, float]
) -> tuple[Iterator[JoinedBatch], DeadLetters]:
    """Batches of a file of decisions, and their dead letters.

    The importance of each decision is put into `importance` before its batch is yielded. As in a log, a second decision with
    the same id is dropped.
    """
    if scheme_of(config.stream.url) != "file":
        problem = f"url = {config.stream.url!r}: an evaluation needs lmdb:///folder, kafka://host:port/topic or file:PATH"
        raise ConfigError("stream", problem)
    log = open_decisions(
        path_of(config.stream.url),
        format=config.stream.format,
        strict=config.stream.strict,
        admission=RecordedAdmission(config.reward, config.stream.max_skew, config.texts),
    )

    def batches() -> Iterator[JoinedBatch]:
        batch, seen = JoinedBatch([], [], []), set[str]()
        for one in log.read():
            if isinstance(one, Decision):
                if one.impression.request_id in seen:
                    counterfactual.left_out["duplicates"] += 1
                    continue
                seen.add(one.impression.request_id)
                impression = _impression(one)
                importance[impression.request_id] = one.importance
                batch.shown.append(TrackedImpression(impression=impression, timestamp=impression.timestamp))
                batch.rows.extend(_rows(batch.shown[-1], one))
            if len(batch.rows) >= config.stream.batch_rows or (batch.rows and not isinstance(one, Decision)):
                yield batch
                batch = JoinedBatch([], [], [])
            if not isinstance(one, Decision):
                pipeline.apply(one)
        if batch.rows:
            yield batch

    return batches(), log.dead


def _impression(decision: Decision) -> Impression:
    return msgspec.structs.replace(decision.impression, unshown=hash_ids(decision.others).astype("<i8").tobytes())


def _rows(shown: TrackedImpression, decision: Decision) -> Iterator[Outcome]:
    impression = shown.impression
    for position, (item, reward) in enumerate(zip(impression.items, decision.rewards, strict=True)):
        yield Outcome(
            user=impression.user,
            item=item,
            kind=decision.kind,
            value=reward,
            timestamp=impression.timestamp,
            shown=shown,
            position=position,
            context=impression.context,
        )


def _no_decisions(url: str, counterfactual: Counterfactual, window: float) -> str:
    missing = counterfactual.left_out["no_propensities"]
    if missing:
        return (
            f"{url}: propensities: none of its {missing} impressions has a propensity above 0 and at most 1 for each item; "
            "use `freshet replay`, which needs none, or a log of the service, which logs them"
        )
    if len(counterfactual):
        return (
            f"{url}: timestamp: all of its {len(counterfactual)} impressions are younger than [stream] window = {window:g} s; "
            "their outcomes are not known; evaluate again later"
        )
    return f"{url}: it has no impressions; give a log with impressions"
