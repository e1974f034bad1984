"""Freshet's public Python API: what a program that extends or embeds it imports.

Everything here is defined elsewhere; `freshet.Ranker` is `learners.base.Ranker`. The command line is ``freshet``.

Examples
--------
>>> from freshet import Interaction, encode
>>> encode(Interaction(id="1", user="ann", item="tea", kind="click", value=1.0, timestamp=0.0))[:20]
b'{"type":"interaction'
"""

from __future__ import annotations

from learners.base import Adapter, Policy, Ranker, Ranking, Reranker, Retriever
from learners.registry import ConfigError, register
from learners.schema import Schema
from memory import Arrays, Catalog, History, Stateful, Table
from streams import Batch, Feedback, Forget, Impression, Interaction, ItemUpdate, Requests, UserUpdate, decode, encode

__all__ = [
    "Adapter",
    "Arrays",
    "Batch",
    "Catalog",
    "ConfigError",
    "Feedback",
    "Forget",
    "History",
    "Impression",
    "Interaction",
    "ItemUpdate",
    "Policy",
    "Ranker",
    "Ranking",
    "Requests",
    "Reranker",
    "Retriever",
    "Schema",
    "Stateful",
    "Table",
    "UserUpdate",
    "decode",
    "encode",
    "register",
]
