"""One process's part of a round: what its records change, collected in order, and made into rows. The state stays as it was."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from learners.networks.gradients import SharesGradients
from service.learning.feedback import FeedbackBuilder
from service.learning.fold import choices_of_lists, with_negatives
from service.learning.negatives import NegativeSampler
from service.ranking.pipeline import Pipeline
from service.ranking.updates import has_context
from service.sharding.messages import Contexts, Entry, Met, Rows, Update
from streams.batch import Feedback, Floats, Ids
from streams.codec import encode
from streams.events import Event, Forget, ItemUpdate, UserUpdate
from streams.joined import JoinedBatch

__all__ = ["Deferred", "Journal", "Noted", "RowBuilder"]

Noted = Update | Contexts | JoinedBatch


class Journal:
    """Collects what the records of a process change.

    Parameters
    ----------
    pipeline : Pipeline

    Attributes
    ----------
    partition : int
        Where the next event comes from.
    attributes : dict of int to list of bytes
        Encoded updates of attributes, by partition. They are applied before the rows of the round are made, wherever they are
        in it: the first rows of a new item follow its attributes closely.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._entries: list[Noted] = []
        self.partition = 0
        self.attributes: dict[int, list[bytes]] = {}

    def add_event(self, event: Event) -> None:
        """Note what an event changes apart from its outcome; see `service.ranking.updates`."""
        if isinstance(event, ItemUpdate | UserUpdate) and not event.deleted:
            self.attributes.setdefault(self.partition, []).append(encode(event))
        elif isinstance(event, ItemUpdate | UserUpdate | Forget):
            self._entries.append(Update(encode(event)))
        elif self._pipeline.contexts.columns.size and has_context(event):
            self._entries.append(Contexts(*self._pipeline.featurizer.encode_context([event.context])))

    def add_batch(self, joined: JoinedBatch) -> None:
        """Add a batch of the joiner. It is joined to the one before, if nothing came between: one large batch costs less."""
        last = self._entries[-1] if self._entries else None
        if isinstance(last, JoinedBatch):
            last.shown.extend(joined.shown)
            last.rows.extend(joined.rows)
            last.closed.extend(joined.closed)
        else:
            self._entries.append(JoinedBatch(list(joined.shown), list(joined.rows), list(joined.closed)))

    def take(self) -> list[Noted]:
        """Return what was collected since the last call."""
        taken, self._entries = self._entries, []
        return taken


class Deferred:
    """What building rows changes, kept until all processes learn the rows; see `service.learning.feedback.Effects`."""

    def __init__(self) -> None:
        self._met: list[Met] = []
        self._dense: list[tuple[Ids, Floats]] = []

    def meet(self, user: Ids, users: Sequence[str], item: Ids, items: Sequence[str]) -> None:
        """See `Effects`. Each user and item is kept once: who was met last counts as touched last."""
        self._met.append(Met(*_once(user, users), *_once(item, items)))

    def follow(self, features: Ids, dense: Floats | None) -> None:
        """See `Effects`."""
        if dense is not None:
            self._dense.append((features, dense))

    def take(self) -> tuple[list[Met], list[tuple[Ids, Floats]]]:
        """Return what was kept since the last call."""
        taken = self._met, self._dense
        self._met, self._dense = [], []
        return taken


class RowBuilder:
    """Makes rows that every process can learn.

    Parameters
    ----------
    pipeline : Pipeline
    builder : FeedbackBuilder
        With `effects`.
    effects : Deferred
    """

    def __init__(self, pipeline: Pipeline, builder: FeedbackBuilder, effects: Deferred) -> None:
        self._pipeline, self._builder, self._effects = pipeline, builder, effects
        self._negatives = NegativeSampler(pipeline, pipeline.negatives)
        # Rows are sent without what nobody learns from.
        self._with_hidden = pipeline.ranker.learns_hidden or any(one.needs_hidden for _, one in pipeline.rerankers)

    def build(self, entries: Sequence[Noted]) -> list[Entry]:
        """Make the batches among the entries into rows."""
        return [self._rows(entry) if isinstance(entry, JoinedBatch) else entry for entry in entries]

    def _rows(self, joined: JoinedBatch) -> Rows:
        """The same as `service.learning.fold.Fold.joined`, up to where the state would change."""
        builder, pipeline = self._builder, self._pipeline
        builder.add_snapshots(joined.shown)
        builder.note_shown(joined.shown)
        shown = builder.from_shown(joined.shown) if pipeline.observes and joined.shown else None
        feedback = extended = listed = None
        if joined.rows:
            feedback = builder.from_rows(joined.rows)
            listed = choices_of_lists(pipeline, builder, joined.rows, feedback)
            pipeline.prepare(feedback)
            extended = with_negatives(pipeline, self._negatives, feedback)
            self._add_gradients(feedback if extended is None else extended)
            if not self._with_hidden:
                feedback.hidden = None
                if extended is not None:
                    extended.hidden = None
        return Rows(shown, *self._effects.take(), feedback, extended, listed)

    def _add_gradients(self, rows: Feedback) -> None:
        """Compute what all processes would otherwise compute. If a learner fails here, it fails in all of them, too."""
        for name, learner in self._pipeline.learners():
            if isinstance(learner, SharesGradients) and learner.shares_gradients and rows.base is not None:
                self._pipeline.isolation.run(name, "compute the gradients of", _fill, rows, name, learner)


def _once(keys: Ids, names: Sequence[str]) -> tuple[Ids, list[str]]:
    """Distinct keys and their names, in the order in which they come last."""
    last = np.sort(keys.size - 1 - np.unique(keys[::-1], return_index=True)[1])
    return keys[last], [names[n] for n in last.tolist()]


def _fill(rows: Feedback, name: str, learner: SharesGradients) -> None:
    rows.gradients[name] = learner.gradients_of(rows)
