"""Stores whose state can be saved, restored and shipped to followers."""

from memory.arrays import Arrays
from memory.checkpoint import Checkpoint, CorruptCheckpoint, UnfitCheckpoint, UnusableCheckpoint
from memory.keyed.catalog import Catalog
from memory.keyed.history import History
from memory.keyed.key_index import KeyIndex
from memory.keyed.table import Column, Table
from memory.python_object import PythonObject
from memory.stateful import State, Stateful, digest

__all__ = [
    "Arrays",
    "Catalog",
    "Checkpoint",
    "Column",
    "CorruptCheckpoint",
    "History",
    "KeyIndex",
    "PythonObject",
    "State",
    "Stateful",
    "Table",
    "UnfitCheckpoint",
    "UnusableCheckpoint",
    "digest",
]
