"""Freshet's public Python API: what a program, a notebook or an extension imports.

A notebook starts at `replay`, `Recommender` and `evaluate`; the rest is for extensions and for programs that read or write
events. Names are imported when they are first used, so ``import freshet`` takes no time. The command line is ``freshet``.

Examples
--------
>>> import freshet
>>> freshet.encode(freshet.Interaction(id="1", user="ann", item="tea", kind="click", value=1.0, timestamp=0.0))[:20]
b'{"type":"interaction'
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from freshet.policies import PolicyReport, evaluate
    from freshet.rankings import Ranked
    from freshet.recommender import Recommender
    from freshet.replays import Report, replay
    from freshet.river_adapter import RiverClassifier
    from freshet.sklearn_adapter import SklearnClassifier
    from freshet.tuning import TuneReport, tune
    from learners.base import Adapter, Policy, Ranker, Ranking, Reranker, Retriever
    from learners.registry import ConfigError, register
    from learners.schema import Schema
    from memory import Arrays, Catalog, History, Stateful, Table
    from service.config import Config
    from service.evaluation.estimators import NotEvaluable
    from service.ranking.pipeline import Refused
    from streams import Batch, Feedback, Forget, Impression, Interaction, ItemUpdate, Requests, UserUpdate, decode, encode
    from streams.codec import BadEvent
    from streams.recorded import BadRecording

__all__ = [
    "Adapter",
    "Arrays",
    "BadEvent",
    "BadRecording",
    "Batch",
    "Catalog",
    "Config",
    "ConfigError",
    "Feedback",
    "Forget",
    "History",
    "Impression",
    "Interaction",
    "ItemUpdate",
    "NotEvaluable",
    "Policy",
    "PolicyReport",
    "Ranked",
    "Ranker",
    "Ranking",
    "Recommender",
    "Refused",
    "Report",
    "Requests",
    "Reranker",
    "Retriever",
    "RiverClassifier",
    "Schema",
    "SklearnClassifier",
    "Stateful",
    "Table",
    "TuneReport",
    "UserUpdate",
    "decode",
    "encode",
    "evaluate",
    "register",
    "replay",
    "tune",
]

_NAMES = {
    "freshet.policies": ("PolicyReport", "evaluate"),
    "freshet.rankings": ("Ranked",),
    "freshet.recommender": ("Recommender",),
    "freshet.replays": ("Report", "replay"),
    "freshet.river_adapter": ("RiverClassifier",),
    "freshet.sklearn_adapter": ("SklearnClassifier",),
    "freshet.tuning": ("TuneReport", "tune"),
    "learners.base": ("Adapter", "Policy", "Ranker", "Ranking", "Reranker", "Retriever"),
    "learners.registry": ("ConfigError", "register"),
    "learners.schema": ("Schema",),
    "memory": ("Arrays", "Catalog", "History", "Stateful", "Table"),
    "service.config": ("Config",),
    "service.evaluation.estimators": ("NotEvaluable",),
    "service.ranking.pipeline": ("Refused",),
    "streams": (
        *("Batch", "Feedback", "Forget", "Impression", "Interaction", "ItemUpdate", "Requests", "UserUpdate"),
        *("decode", "encode"),
    ),
    "streams.codec": ("BadEvent",),
    "streams.recorded": ("BadRecording",),
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a public name from the module that defines it."""
    if name not in _MODULES:
        raise AttributeError(f"module 'freshet' has no attribute {name!r}; it has {', '.join(__all__)}")
    found = globals()[name] = getattr(importlib.import_module(_MODULES[name]), name)
    return found


def __dir__() -> list[str]:
    return [*globals(), *__all__]
