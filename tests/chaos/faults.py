"""What can be done to a broker."""

from __future__ import annotations

import os
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.broker import ENCRYPTED, GIVEN, Broker, proxied
from tests.chaos.schedule import Act, Deed
from tests.proxy import PRODUCE, TO_CLIENT, Proxy

__all__ = ["Faults", "faulty"]

RESTART = f"{GIVEN}_RESTART"
"""Variable with the command that kills the broker which FRESHET_TEST_KAFKA names, and starts it again with what it kept."""


class Faults:
    """A broker and the ways to disturb it.

    Parameters
    ----------
    broker : Broker
    proxy : Proxy or None
        Through which it is reached.

    Attributes
    ----------
    deeds : tuple of Deed
        Those that there are for this broker.
    done : Counter of Deed
    trouble : int
        How often a deed began or ended.
    """

    def __init__(self, broker: Broker, proxy: Proxy | None) -> None:
        self.broker, self._proxy = broker, proxy
        self.done: Counter[Deed] = Counter()
        self.trouble = 0
        self.deeds: tuple[Deed, ...] = () if proxy is None else (Deed.CUT, Deed.STOP, Deed.REFUSE, Deed.LOSE)
        if GIVEN in os.environ and RESTART in os.environ:
            self.deeds = (Deed.RESTART, *self.deeds)

    def do(self, act: Act) -> None:
        """Do it, and undo it after its time."""
        self.trouble += 1
        if act.deed is Deed.RESTART:
            subprocess.run(os.environ[RESTART], shell=True, check=True, stdout=subprocess.DEVNULL)
        elif act.deed is Deed.STOP:
            with self.broker.stopped():
                time.sleep(act.lasts)
        else:
            assert self._proxy is not None
            self._through(self._proxy, act)
        self.done[act.deed] += 1
        self.trouble += 1

    def heal(self) -> None:
        """Take back what may still be about to happen."""
        if self._proxy is not None:
            self._proxy.heal()

    def _through(self, proxy: Proxy, act: Act) -> None:
        if act.deed is Deed.CUT:
            proxy.cut()
        elif act.deed is Deed.LOSE:
            proxy.cut_after(0, TO_CLIENT, PRODUCE)
        else:
            proxy.refuse()
            proxy.cut()
            time.sleep(act.lasts)
            proxy.accept()


@contextmanager
def faulty(folder: Path) -> Iterator[Faults]:
    """Have a broker to disturb: the one that FRESHET_TEST_KAFKA names, else one of one's own."""
    if ENCRYPTED:
        yield Faults(Broker(os.environ[GIVEN]), None)
        return
    with proxied(folder) as (broker, proxy):
        yield Faults(broker, proxy)
