"""State that can be saved, restored and shipped."""

from memory.arrays import Arrays
from memory.blob import Blob, UntrustedPickle, trusting
from memory.catalog import Catalog
from memory.checkpoint import Checkpoint, CorruptCheckpoint, UnfitCheckpoint, UnusableCheckpoint
from memory.history import History
from memory.key_index import KeyIndex
from memory.stateful import State, Stateful, digest
from memory.table import Column, Table

__all__ = [
    "Arrays",
    "Blob",
    "Catalog",
    "Checkpoint",
    "Column",
    "CorruptCheckpoint",
    "History",
    "KeyIndex",
    "State",
    "Stateful",
    "Table",
    "UnfitCheckpoint",
    "UntrustedPickle",
    "UnusableCheckpoint",
    "digest",
    "trusting",
]
