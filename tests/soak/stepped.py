"""The service with a clock that can be set: ``python -m tests.soak.stepped CLOCK`` and the arguments of ``freshet``.

CLOCK is a file with the seconds by which the clock is ahead, as a double. The program takes all its times from `time.time`.
"""

from __future__ import annotations

import mmap
import struct
import sys
import time
from pathlib import Path

__all__ = ["set_clock"]

_SECONDS = struct.Struct("<d")


def set_clock(clock: Path, ahead: float) -> None:
    """Write by how many seconds the clock of a service is ahead."""
    if not clock.exists():
        clock.write_bytes(bytes(_SECONDS.size))
    with clock.open("r+b") as file:
        file.write(_SECONDS.pack(ahead))


def main() -> None:
    """Replace the clock, then run the service."""
    clock = Path(sys.argv.pop(1))
    with clock.open("rb") as file:
        shared = mmap.mmap(file.fileno(), _SECONDS.size, access=mmap.ACCESS_READ)
    real = time.time
    time.time = lambda: real() + _SECONDS.unpack_from(shared)[0]
    from service.cli import main as run  # imported late: whatever it imports has to find the other clock

    run()


if __name__ == "__main__":
    main()
