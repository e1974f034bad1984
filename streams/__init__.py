"""What happened: events, batches of them, and the logs that keep them.

Recorded files, the log on disk, dead letters and the simulator are imported by their own names, so that Arrow and LMDB are
loaded where they are used.
"""

from streams.batch import Batch, Feedback, Requests
from streams.block import Block, Column
from streams.codec import BadEvent, decode, encode, partition_key
from streams.events import Event, Forget, Impression, Interaction, ItemUpdate, Tick, UserUpdate
from streams.join import Joiner
from streams.joined import Joined, Position, Row, Shown
from streams.log import Log, LogFull, MemoryLog, Offsets, Record

__all__ = [
    "BadEvent",
    "Batch",
    "Block",
    "Column",
    "Event",
    "Feedback",
    "Forget",
    "Impression",
    "Interaction",
    "ItemUpdate",
    "Joined",
    "Joiner",
    "Log",
    "LogFull",
    "MemoryLog",
    "Offsets",
    "Position",
    "Record",
    "Requests",
    "Row",
    "Shown",
    "Tick",
    "UserUpdate",
    "decode",
    "encode",
    "partition_key",
]
