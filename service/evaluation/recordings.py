"""Recorded files as a config reads them: the file, which of its rows may be learned from, and whether they have labels."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from service.config import Config, ConfigError
from service.learning.rewards import Rewards
from service.learning.validation import EventValidator
from service.tables.rows import FieldType, RewardRule
from service.urls import path_of, scheme_of
from streams.admission.limits import DEFAULT_LIMITS, TextLimits
from streams.batch import Bools
from streams.block import Block, Codes, Column
from streams.codec import BadEvent
from streams.events import Event, Impression, Interaction
from streams.recorded import ColumnMap, Recording, Report, open_recording, validate

__all__ = ["RecordedAdmission", "check_kind", "examine", "label_warnings", "open_stream"]

_MAX = float(np.finfo(np.float32).max)
_SMALL = 250
"""Characters of a context that is within every limit."""

_NUMBER = 30
"""Characters that a number and its punctuation take at most."""


class RecordedAdmission:
    """Admits from a file what ``POST /v1/events`` would accept today; see `streams.readers.mapping.Admission`.

    Parameters
    ----------
    rewards : mapping of kind to float or RewardRule
        The ``[reward]`` section.
    max_skew : float
        Seconds by which a time may lie in the future.
    limits : TextLimits
        How long texts may be.
    """

    def __init__(self, rewards: Mapping[str, float | RewardRule], max_skew: float, limits: TextLimits = DEFAULT_LIMITS) -> None:
        self._validator, self._rewards, self._max_skew = EventValidator(rewards, max_skew, limits), rewards, max_skew

    def check(self, event: Event) -> None:
        """See `Admission.check`."""
        self._validator.check(event, time.time())

    def refused(self, block: Block) -> Iterator[tuple[Codes, BadEvent]]:
        """See `Admission.refused`. Only rows that could be refused are checked one by one."""
        suspicious = self._suspicious(block)
        for kind, rows in _by_kind(block):
            if kind not in self._rewards:
                # All rows of a kind without a reward are refused for the same reason.
                suspicious &= ~rows
                yield np.flatnonzero(rows), self._refusal(Interaction(user="-", item="-", kind=kind))
        for row in np.flatnonzero(suspicious).tolist():
            try:
                self.check(next(block.slice(row, row + 1).interactions()))
            except BadEvent as error:
                yield np.array([row]), error

    def _refusal(self, event: Event) -> BadEvent:
        try:
            self.check(event)
        except BadEvent as error:
            return error
        raise AssertionError("a kind without a reward is refused")

    def _suspicious(self, block: Block) -> Bools:
        """Rows with a time in the future, a large reward or a long context, (N,)."""
        largest = max((abs(reward) for reward in self._rewards.values() if not isinstance(reward, RewardRule)), default=0.0)
        found: Bools = block.timestamp > time.time() + self._max_skew
        found |= np.abs(block.value) > _MAX / max(largest, 1.0)
        texts = [column for column in block.context.values() if isinstance(column, Column)]
        lengths = [np.array([*map(len, column.names), 0]) for column in texts]
        frame = sum(map(len, block.context)) + _NUMBER * len(block.context)
        if frame + sum(int(length.max()) for length in lengths) > _SMALL:
            size = np.full(block.rows, frame)
            for column, length in zip(texts, lengths, strict=True):
                size += length[column.codes]
            found |= size > _SMALL
        return found


class _Labels:
    """Counts the labels of a recording."""

    def __init__(self, config: Config) -> None:
        self._rewards = Rewards(config.reward)
        self.rows = self.positive = 0

    def take(self, event: Event | Block) -> None:
        if isinstance(event, Block):
            self.rows += event.rows
            self.positive += sum(
                int((self._rewards.of_many(kind, event.value[rows]) > 0).sum()) for kind, rows in _by_kind(event)
            )
        elif isinstance(event, Interaction):
            self.rows += 1
            self.positive += self._rewards.of(event.kind, event.value) > 0
        elif isinstance(event, Impression):
            # Most of its items will have no interaction.
            self.rows += len(event.items)


def open_stream(config: Config, rewards: Mapping[str, float | RewardRule] | None = None) -> Recording:
    """Open the recorded file that ``[stream]`` names.

    Parameters
    ----------
    config : Config
    rewards : mapping of kind to float or RewardRule, or None
        Rewards of the kinds that are admitted. None: those of ``[reward]``.

    Raises
    ------
    ConfigError
        For a url that does not name a file.
    streams.recorded.BadRecording
        For a file that cannot be read in its format.
    """
    stream = config.stream
    if scheme_of(stream.url) != "file":
        raise ConfigError("stream", f"url = {stream.url!r}: no recorded file; give the path of one")
    return open_recording(
        path_of(stream.url),
        format=stream.format,
        columns=ColumnMap(**stream.columns.model_dump()) if stream.columns else None,
        kind=stream.kind,
        sorted=stream.sorted,
        strict=stream.strict,
        users=None if stream.users is None else Path(stream.users),
        items=None if stream.items is None else Path(stream.items),
        header=stream.header,
        encoding=stream.encoding,
        text=_text_fields(config),
        limits=config.texts,
        admission=RecordedAdmission(config.reward if rewards is None else rewards, stream.max_skew, config.texts),
    )


def check_kind(config: Config, recording: Recording) -> None:
    """Raise `ConfigError` if a table has no column of kinds, and the kind of all its rows has no reward.

    Raises
    ------
    ConfigError
        Naming the kind.
    """
    stream = config.stream
    one_kind = recording.format != "events" and (stream.columns is None or stream.columns.kind is None)
    if one_kind and stream.kind not in config.reward:
        raise ConfigError(
            "reward",
            f"{stream.kind!r}, the kind of [stream], has no reward; known are {sorted(config.reward)}: add it, or change kind",
        )


def examine(config: Config) -> Report:
    """Read the recorded file that ``[stream]`` names, as a replay would, and report its contents.

    Raises
    ------
    ConfigError, streams.recorded.BadRecording
        As `open_stream`.
    """
    labels = _Labels(config)
    report = validate(open_stream(config), labels.take)
    return replace(report, warnings=[*report.warnings, *label_warnings(config, labels.rows, labels.positive)])


def label_warnings(config: Config, rows: int, positive: int) -> Iterator[str]:
    """Yield what is wrong with labels that are all alike, and the remedy.

    Parameters
    ----------
    config : Config
    rows, positive : int
        Measured rows, and those with a positive reward.
    """
    if rows and not positive:
        rules = [
            f"{kind} from a value of {reward.at_least:g} on" if isinstance(reward, RewardRule) else f"{kind} = {reward:g}"
            for kind, reward in config.reward.items()
        ]
        yield (
            f"none of the {rows:,} rows has a positive reward, so there is no AUC and nothing to like. [reward] has "
            f"{', '.join(rules)}: correct it, or name the column of the rating or label as value in [stream.columns]"
        )
    elif rows > 1 and positive == rows and not config.negatives.n:
        yield (
            f"all of the {rows:,} rows have a positive reward, so there is no AUC, and a ranker learns from likes alone: "
            "set n in [negatives], raise at_least in [reward], or look at the hit rate alone"
        )


def _by_kind(block: Block) -> Iterator[tuple[str, Bools]]:
    """Yield each kind in a block with its rows, (N,)."""
    if isinstance(block.kind, str):
        if block.rows:
            yield block.kind, np.ones(block.rows, np.bool_)
        return
    for code in np.unique(block.kind.codes).tolist():
        yield block.kind.names[code], block.kind.codes == code


def _text_fields(config: Config) -> dict[str, frozenset[str]]:
    """Names of the fields whose cells are text, even if they look like numbers."""
    sides = {"user": config.features.user, "item": config.features.item, "context": config.features.context}
    return {
        side: frozenset(
            name
            for name, field in fields.items()
            if (field.type if isinstance(field, FieldType) else field) in ("category", "tags")
        )
        for side, fields in sides.items()
    }
