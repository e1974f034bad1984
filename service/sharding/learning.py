"""The common part of a round: every process changes its state by what all of them read, in the same order."""

from __future__ import annotations

from service.ranking.pipeline import Pipeline
from service.sharding.messages import Contexts, Entry, Update
from streams.codec import decode

__all__ = ["learn"]


def learn(pipeline: Pipeline, entry: Entry) -> None:
    """Change the state by an entry of a partition."""
    if isinstance(entry, Update):
        pipeline.apply(decode(entry.event))
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
