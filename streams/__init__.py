"""What happened: events, batches of them, and the logs that keep them.

Import recorded files, the log on disk, dead letters and the simulator from their own modules: Arrow and LMDB are then loaded
only where they are used.
"""

from streams.batch import Batch, Feedback, Requests
from streams.block import Block, Column
from streams.codec import BadEvent, decode, encode, partition_key
from streams.events import Event, Forget, Impression, Interaction, ItemUpdate, Tick, UserUpdate
from streams.join import Joiner
from streams.joined import Closing, JoinedBatch, Outcome, Position, TrackedImpression
from streams.log import Log, LogFull, MemoryLog, Offsets, Record

__all__ = [
    "BadEvent",
    "Batch",
    "Block",
    "Closing",
    "Column",
    "Event",
    "Feedback",
    "Forget",
    "Impression",
    "Interaction",
    "ItemUpdate",
    "JoinedBatch",
    "Joiner",
    "Log",
    "LogFull",
    "MemoryLog",
    "Offsets",
    "Outcome",
    "Position",
    "Record",
    "Requests",
    "Tick",
    "TrackedImpression",
    "UserUpdate",
    "decode",
    "encode",
    "partition_key",
]
