"""A recommender in this process: the objects of the service, without a server and without a thread."""

from __future__ import annotations

import math
import os
import secrets
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import msgspec

from freshet.configs import ConfigLike, config_of, with_stream
from freshet.frames import is_frame
from freshet.rankings import Ranked
from freshet.replays import stream_of
from freshet.saving import Saved, check_saved, read_saved, write_saved
from service.config import Config
from service.evaluation.recordings import open_stream
from service.learning.feedback import FeedbackBuilder
from service.learning.trainer import Trainer
from service.learning.validation import EventValidator, check_numbers
from service.process.logs import data_folder, open_log
from service.process.runtime import build_pipeline, joiners
from service.ranking.requests import CANDIDATES, RankRequest, RecommendRequest
from service.ranking.signing import Signer
from streams.block import Block
from streams.codec import BadEvent, decode, decode_as, encode, partition_key
from streams.dead_letters import DeadLetters
from streams.events import Event, Forget, Tick
from streams.log import MemoryLog

__all__ = ["Recommender"]

_PART = 8_192
"""Events appended and learned together; results do not depend on it."""

_FIRST = 5e-324
"""Stands for a time of 0 in a recorded file, where it is a time; in an event it means now."""

Entry = tuple[bytes, bytes]


class Recommender:
    """Learns events and recommends, as the service of the same config does.

    It has the service's pipeline and trainer, and a log in memory that keeps what is still waiting. It is not safe to use from
    several threads at once.

    Parameters
    ----------
    config : path, dict, Config or None
        None: the built-in config. ``[stream] url`` is not opened; if it names a service's log, the rankings in that log are
        trusted when they are learned.

    Attributes
    ----------
    config : Config

    Raises
    ------
    ConfigError
        For a wrong config.

    Examples
    --------
    >>> shop = Recommender({"ranker": {"bias": {}}, "retrievers": {"popularity": {}}})
    >>> shop = shop.learn([
    ...     {"type": "item", "item": "kettle", "attributes": {"brand": "Acme"}},
    ...     {"type": "item", "item": "tea"},
    ...     {"type": "interaction", "user": "ann", "item": "tea"},
    ...     {"type": "interaction", "user": "bob", "item": "tea"},
    ... ])
    >>> shop.recommend("cem", n=2).items
    ['tea', 'kettle']
    >>> shop.recommend("ann", n=2).items  # not what she has already
    ['kettle']
    """

    def __init__(self, config: ConfigLike = None) -> None:
        self._start(config_of(config), MemoryLog(), secrets.token_bytes(32), None)

    def _start(self, config: Config, log: MemoryLog, key: bytes, checkpoints: Path | None) -> None:
        """Build everything, and continue from the newest of these checkpoints."""
        self.config, self._log, self._key = config, log, key
        self._signer, served = Signer(key), self._served(config)
        self._pipeline = build_pipeline(config)
        if checkpoints is not None:
            check_saved(checkpoints, self._pipeline)
        self._validator = EventValidator(config.reward, config.stream.max_skew)
        self._dead, self._bad_rows = DeadLetters(), Counter[str]()
        self._time = 0.0
        self._trainer = Trainer(
            self._pipeline,
            FeedbackBuilder(
                self._pipeline, config.reward, lambda one: self._signer.verify(one) or served.verify(one), config.fingerprint
            ),
            joiners(config, 1),
            log,
            self._dead,
            self._validator,
            folder=checkpoints,
            every=math.inf,
        )
        self._trainer.restore()

    @staticmethod
    def _served(config: Config) -> Signer:
        logged = urlsplit(config.stream.url).scheme in ("lmdb", "kafka")
        return Signer.for_reader(data_folder(config, needed=False) if logged else None)

    @property
    def digest(self) -> str:
        """Fingerprint of the whole state. A service that has learned the same events in the same batches has the same one."""
        return self._trainer.digest()

    @property
    def version(self) -> int:
        """Number of micro-batches learned."""
        return self._pipeline.version

    @property
    def skipped(self) -> dict[str, int]:
        """Number of rows or records that could not be learned, by reason."""
        return dict(self._dead.counts + self._bad_rows)

    def learn(self, events: Any, *, columns: Mapping[str, Any] | None = None) -> Self:
        """Learn events; the next ranking knows them.

        Parameters
        ----------
        events : event, iterable of events, data frame, path or url
            Events are those of ``/v1/events``: objects such as `freshet.Interaction`, or dicts with a ``type``. A data frame
            has an interaction a row. A path names a recorded file, ``lmdb:///folder`` the log of a service.
        columns : dict or None
            Meaning of the columns of a data frame or a file, as in ``[stream.columns]``. None: those of the config.

        Returns
        -------
        Recommender
            Itself.

        Raises
        ------
        BadEvent
            For an event that cannot be learned; none of the events is learned then. Bad rows of a data frame, a file or a log
            are skipped with a warning, and counted in `skipped`.
        BadRecording
            For a data frame or a file that cannot be read.
        ConfigError
            For wrong `columns`.
        """
        before = sum(self.skipped.values())
        if isinstance(events, str | os.PathLike) or is_frame(events):
            self._learn_stream(events, columns)
        else:
            single = isinstance(events, Mapping | msgspec.Struct)
            now = time.time()
            checked = [self._entry(event, now, n) for n, event in enumerate([events] if single else events)]
            self._append(iter(checked))
        failed = sum(self.skipped.values()) - before
        if failed:
            reasons = ", ".join(f"{reason}: {count}" for reason, count in self.skipped.items())
            warnings.warn(f"{failed} rows or records could not be learned ({reasons}); see Recommender.skipped", stacklevel=2)
        return self

    def forget(self, user: str) -> Self:
        """Delete all that is kept about a user, in every learner.

        Returns
        -------
        Recommender
            Itself.
        """
        return self.learn(Forget(user=_id(user)))

    def recommend(
        self,
        user: str,
        n: int = 10,
        *,
        context: Mapping[str, Any] | None = None,
        exclude: Iterable[str] = (),
        candidates: int = CANDIDATES,
        repeat: bool = False,
        by: str | None = None,
        seed: int | None = None,
        explain: bool = False,
        log: bool = False,
    ) -> Ranked:
        """Find and order items for a user; what ``/v1/recommend`` does.

        Parameters
        ----------
        user : str
        n : int
            Number of items, at most 1,000.
        context : dict or None
            Device, page, ...
        exclude : iterable of str
            Items that must not be recommended.
        candidates : int
            Number of items that each retriever finds for the ranker.
        repeat : bool
            Whether items that the user has already touched may be recommended again.
        by : str or None
            Name of a retriever whose order is used instead of the ranker's.
        seed : int or None
            Makes a randomised policy repeatable.
        explain : bool
            Add the reasons for each score to ``response``.
        log : bool
            Whether the user sees this ranking: then items without an interaction count as not chosen when ``[stream] window``
            has passed, and interactions with its ``request_id`` belong to it. False: nothing is learned from it.

        Returns
        -------
        Ranked

        Raises
        ------
        BadEvent
            For a wrong value.
        Refused
            For a retriever that there is not.
        """
        return self._answer(
            RecommendRequest,
            {"n": n, "exclude": [_id(item) for item in exclude], "candidates": candidates, "repeat": repeat},
            {"user": _id(user), "context": dict(context or {}), "by": by, "seed": seed, "explain": explain, "log": log},
        )

    def rank(
        self,
        user: str,
        items: Iterable[str],
        n: int | None = None,
        *,
        context: Mapping[str, Any] | None = None,
        by: str | None = None,
        seed: int | None = None,
        explain: bool = False,
        log: bool = False,
    ) -> Ranked:
        """Order these items for a user; what ``/v1/rank`` does. Parameters and errors are those of `recommend`.

        Returns
        -------
        Ranked
        """
        return self._answer(
            RankRequest,
            {"items": [_id(item) for item in items]} | ({} if n is None else {"n": n}),
            {"user": _id(user), "context": dict(context or {}), "by": by, "seed": seed, "explain": explain, "log": log},
        )

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Save the whole state in a folder: the learners, what waits for its outcome, and the config.

        Returns
        -------
        Path
            The folder. A crash leaves the state that it held before.
        """
        rewind = self._trainer.reader.positions()[0].rewind
        saved = Saved.of(self.config, self._key, self._time, rewind, self._log)
        return write_saved(Path(folder), saved, self._trainer)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Self:
        """Load what `save` has saved; it goes on as if it had never stopped.

        Raises
        ------
        FileNotFoundError
            If the folder has no saved recommender.
        ConfigError
            If this program does not know its config, or cannot use its state.
        """
        saved, config, checkpoints = read_saved(Path(folder))
        log = MemoryLog(begin=saved.rewind)
        log.append(saved.records)
        loaded = cls.__new__(cls)
        loaded._start(config, log, saved.key, checkpoints)
        loaded._time = saved.time
        return loaded

    def _answer(self, document: type[RankRequest | RecommendRequest], own: dict[str, Any], shared: dict[str, Any]) -> Ranked:
        given = {name: value for name, value in (shared | own).items() if value is not None}
        try:
            request = decode_as(document, msgspec.json.encode(given))
        except (TypeError, UnicodeEncodeError) as error:
            raise BadEvent("", f"{error}; give values that JSON can hold", what="request") from error
        check_numbers("context", request.context)
        ((response, impression),) = self._pipeline.rank([request])
        if impression is not None:
            named = msgspec.structs.replace(impression, config=self.config.fingerprint)
            self._append(iter([(partition_key(named), self._signer.encoded(named))]))
            self._time = max(self._time, named.timestamp)
        return Ranked(response)

    def _entry(self, event: Any, now: float, n: int) -> Entry:
        """Check an event as the service does, and encode it."""
        try:
            read = decode(msgspec.json.encode(event) if isinstance(event, Mapping) else encode(event))
            if isinstance(read, Tick):
                raise BadEvent("type", "'tick' is reserved for the service; remove the event")
            self._validator.check(read, now)
        except (TypeError, UnicodeEncodeError) as error:
            raise BadEvent("", f"{error}; give dicts of JSON values, or events of freshet", what=f"event {n}") from error
        except BadEvent as error:
            error.args = (f"event {n}: {error}",)
            raise
        return self._timed(read if read.timestamp else msgspec.structs.replace(read, timestamp=now))

    def _timed(self, event: Event) -> Entry:
        self._time = max(self._time, event.timestamp)
        return partition_key(event), encode(event)

    def _learn_stream(self, source: Any, columns: Mapping[str, Any] | None) -> None:
        url = source if isinstance(source, str) else ""
        if urlsplit(url).scheme in ("lmdb", "kafka"):
            self._append(self._logged(with_stream(self.config, url)))
            return
        with stream_of(source, self.config, columns=columns) as config:
            recording = open_stream(config)
            self._append(self._recorded(recording.events()))
            self._bad_rows.update(recording.dead.counts)

    def _logged(self, config: Config) -> Iterator[Entry]:
        log = open_log(config, readonly=True)
        try:
            offsets = log.begin()
            while records := log.read(offsets, _PART):
                for record in records:
                    offsets[record.partition] = record.offset + 1
                    self._time = max(self._time, record.timestamp)
                    yield record.key, record.value
        finally:
            log.close()

    def _recorded(self, events: Iterable[Event | Block]) -> Iterator[Entry]:
        for event in events:
            for one in event.interactions() if isinstance(event, Block) else (event,):
                yield self._timed(one if one.timestamp else msgspec.structs.replace(one, timestamp=_FIRST))

    def _append(self, entries: Iterator[Entry]) -> None:
        """Append to the log and learn it, part by part; then close the open batch, so that the next ranking knows all."""
        while part := list(islice(entries, _PART)):
            self._log.append(part)
            self._trainer.drain()
            self._trim()
        if self._trainer.reader.pending:
            # Dated as the last event: a recorded past does not end the windows of its impressions today.
            self._log.append([(b"", encode(Tick(timestamp=self._time)))])
            self._trainer.drain()
            self._trim()

    def _trim(self) -> None:
        self._log.trim({0: self._trainer.reader.positions()[0].rewind})


def _id(name: Any) -> Any:
    """Ids are text; data frames often have numbers."""
    return str(name) if isinstance(name, int) and not isinstance(name, bool) else name
