"""Stores whose state can be saved, restored and shipped to followers."""

from memory.arrays import Arrays
from memory.checkpoint import Checkpoint, CorruptCheckpoint, UnfitCheckpoint, UnusableCheckpoint
from memory.keyed.catalog import Catalog
from memory.keyed.history import History
from memory.keyed.key_index import KeyIndex
from memory.keyed.table import Column, Table
from memory.pickled_object import PickledObject, UntrustedPickle, trusting
from memory.stateful import State, Stateful, digest

__all__ = [
    "Arrays",
    "Catalog",
    "Checkpoint",
    "Column",
    "CorruptCheckpoint",
    "History",
    "KeyIndex",
    "PickledObject",
    "State",
    "Stateful",
    "Table",
    "UnfitCheckpoint",
    "UntrustedPickle",
    "UnusableCheckpoint",
    "digest",
    "trusting",
]
