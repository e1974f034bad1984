"""Finds out whether a topic that does not answer is still the one that was opened."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from streams.kafka.errors import is_unknown_topic

__all__ = ["IdentityCheck"]


class IdentityCheck:
    """Asks for the identity of a topic on a thread of its own, because a broker that is away answers late or never.

    Without this, a reader of a topic that was deleted, or deleted and created again, would wait for it for ever.

    Parameters
    ----------
    name : str
        Name of the log.
    identity : str
        What it was when the log was opened.
    ask : callable returning str
        Asks for the identity now.
    patience : float
        Seconds for which a topic must be missing to be gone: a broker that has just started may not know it yet. There is a
        tenth of it between two questions.

    Attributes
    ----------
    doubtful : bool
        Whether what is read now may be of another topic: the broker did not know this one, and has not been asked since.
    """

    def __init__(self, name: str, identity: str, ask: Callable[[], str], patience: float) -> None:
        self._name, self._identity, self._ask, self._patience = name, identity, ask, patience
        self._thread: threading.Thread | None = None
        self._asked_at = float("-inf")
        self._missing_since: float | None = None
        self._missing: Exception | None = None
        self._other = ""
        self.doubtful = False

    def start(self, *, doubtful: bool = False) -> None:
        """Ask, unless a question is on its way or was answered just now."""
        self.doubtful = self.doubtful or doubtful
        if time.monotonic() - self._asked_at < self._patience / 10 or (self._thread is not None and self._thread.is_alive()):
            return
        self._asked_at = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="topic-identity", daemon=True)
        self._thread.start()

    def compare(self, identity: str) -> None:
        """Note the identity that the topic has now."""
        if identity != self._identity:
            self._other = identity

    def raise_error(self) -> None:
        """Raise what was found out.

        Raises
        ------
        kafka.errors.KafkaError
            The client's error for a topic that does not exist.
        LookupError
            The topic is another one with the same name.
        """
        if self._other:
            problem = f"offset: {self._name} was deleted and created again ({self._identity!r} is {self._other!r} now)"
            raise LookupError(f"{problem}; start again, to read it from its beginning")
        missing, since = self._missing, self._missing_since
        if missing is not None and since is not None and time.monotonic() - since >= self._patience:
            raise missing

    def _run(self) -> None:
        try:
            found = self._ask()
        except Exception as error:  # whatever it is: the reader reports that the broker does not answer
            self._missing = error if is_unknown_topic(error) else None
            if self._missing is None:
                self._missing_since = None
            elif self._missing_since is None:
                self._missing_since = time.monotonic()
            return
        self._missing = self._missing_since = None
        self.compare(found)
        self.doubtful = False
