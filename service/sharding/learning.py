"""The common part of a round: every process changes its state by the rows of all, in the same order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from learners.base import Learner, Retriever
from memory.merging import Merger
from memory.stateful import State
from service.ranking.pipeline import Pipeline
from service.sharding.messages import Array, Contexts, Entry, Rows, Update, decode, encode
from service.sharding.world import Peers
from streams.codec import decode as decode_event

__all__ = ["RoundLearner"]


class RoundLearner:
    """Lets a pipeline learn the rounds of all processes.

    A learner that can be merged learns the rows of its own process only, after all others, and is merged then. The others learn
    all rows. So they depend neither on the number of processes nor on merged learners that are ahead of the round.

    Parameters
    ----------
    pipeline : Pipeline
        Its state is the same in every process.
    ranks : Peers

    Raises
    ------
    ValueError
        For a learner that says that it can be merged, and cannot.
    """

    def __init__(self, pipeline: Pipeline, ranks: Peers) -> None:
        self._pipeline, self._ranks = pipeline, ranks
        self._apart = {name: learner for name, learner in pipeline.learners() if learner.merging and ranks.size > 1}
        self._mergers: dict[str, Merger] = {}
        pipeline.apart = frozenset(self._apart)
        self.start()

    def start(self) -> None:
        """Continue from the present state, which was loaded."""
        self._mergers = {name: _merger(name, learner) for name, learner in self._apart.items()}

    @property
    def nbytes(self) -> int:
        """Memory of the copies that mergers keep, in bytes."""
        return sum(learner.nbytes for learner in self._apart.values())

    def learn(self, entries: Mapping[int, Sequence[Entry]], own: Sequence[Rows]) -> None:
        """Learn the entries of all partitions, in the order of their numbers, and this process's `own` rows apart."""
        for partition in sorted(entries):
            for entry in entries[partition]:
                self._change(entry)
        if self._apart:
            self._learn_apart(own)

    def _change(self, entry: Entry) -> None:
        pipeline = self._pipeline
        if isinstance(entry, Update):
            pipeline.apply(decode_event(entry.event))
        elif isinstance(entry, Contexts):
            pipeline.contexts.add(entry.keys, entry.values)
        else:
            for features, dense in entry.dense:
                pipeline.rows.learn(features, dense)
            if entry.shown is not None:
                pipeline.observe(entry.shown)
            for met in entry.met:
                pipeline.users.ensure(met.user, met.users)
                if met.item.size:
                    pipeline.items.ensure(met.item, met.items)
            if entry.feedback is not None:
                pipeline.learn(entry.feedback, entry.extended, entry.listed)

    def _learn_apart(self, own: Sequence[Rows]) -> None:
        pipeline = self._pipeline
        for merger in self._mergers.values():
            merger.begin()
        for entry in own:
            for name, learner in self._apart.items():
                retrieves = isinstance(learner, Retriever)
                rows = entry.feedback if entry.extended is None or retrieves else entry.extended
                if rows is not None and (retrieves or rows.base is not None):
                    pipeline.isolation.run(name, "learn from", learner.learn, rows)
        changes: dict[str, State] = {name: merger.changes() for name, merger in self._mergers.items()}
        of_all = [decode(message, dict[str, dict[str, Array]]) for message in self._ranks.gather(encode(changes))]
        for name, merger in self._mergers.items():
            merger.merge([changes[name] for changes in of_all])


def _merger(name: str, learner: Learner) -> Merger:
    assert learner.merging is not None
    for method in ("forget", "add", "remove", "observe"):
        if getattr(type(learner), method) is not getattr(Learner, method):
            raise ValueError(f"{name}: {method} changes a learner that is merged; it has to learn the rows of all processes")
    try:
        return Merger(learner, learner.merging)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
