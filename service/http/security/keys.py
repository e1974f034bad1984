"""API keys: their scopes, their hashes, and where the hashes are kept.

An entry is ``name scopes sha256:hash``, as in ``shop read,write sha256:9f86...``. Line breaks or ``;`` separate entries. They
come from the environment variable ``FRESHET_API_KEYS`` and from the file of ``[server] keys``. Neither holds a key, so whoever
reads them cannot use the service. A key has 256 random bits. That is why a plain SHA-256 is enough: there is nothing to guess,
unlike with passwords.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import re
import secrets
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

from service.config import ConfigError

__all__ = ["SCOPES", "VARIABLE", "Key", "KeyScope", "Keys", "add_line", "new_key"]

VARIABLE: Final = "FRESHET_API_KEYS"

KeyScope = Literal["read", "write", "metrics", "admin"]
SCOPES: tuple[KeyScope, ...] = get_args(KeyScope)

_PREFIX = "freshet_"
"""Begins every key, so that scanners of repositories and logs can find one that leaked."""
_NAME, _HASH = re.compile(r"[\w.-]{1,64}"), re.compile(r"sha256:([0-9a-fA-F]{64})")
_REMEDY = "make a key and its entry with `freshet key new`"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Key:
    """What is known of a key.

    Attributes
    ----------
    name : str
        Names the key in messages.
    scopes : frozenset of str
        What it allows. ``admin`` includes ``metrics``.
    digest : bytes
        SHA-256 of the key, 32 bytes.
    """

    name: str
    scopes: frozenset[str]
    digest: bytes


class Keys:
    """The keys of a service.

    Parameters
    ----------
    entries : str
        Entries of the environment variable; they stay as they are.
    file : Path or None
        File with further entries. It is read again when it changes.

    Attributes
    ----------
    failures : int
        Changes of the file that could not be read; the keys from before stay.

    Raises
    ------
    ConfigError
        For an entry that is wrong, a name that occurs twice, a file that cannot be read or that others may read or change, or
        no keys at all.
    """

    def __init__(self, entries: str = "", file: Path | None = None) -> None:
        self.failures = 0
        self._fixed, self._file = _parsed(entries, VARIABLE), file
        self._stamp: tuple[int, ...] | None = None
        self._known: tuple[Key, ...] = ()
        self._load()

    @classmethod
    def given(cls, file: str | None) -> Keys | None:
        """Keys of the environment and of the file of the config; None: neither is set."""
        entries = os.environ.get(VARIABLE, "")
        return cls(entries, None if file is None else Path(file)) if entries.strip() or file is not None else None

    def find(self, key: bytes) -> Key | None:
        """Entry of a key that a client has sent; None: there is no such key.

        All entries are compared, each in constant time. So the time tells nothing about the hashes.
        """
        digest, found = hashlib.sha256(key).digest(), None
        for known in self._known:
            if hmac.compare_digest(known.digest, digest):
                found = known
        return found

    def refresh(self) -> bool:
        """Read the file again if it has changed. Return whether the keys are others than before."""
        before = self._known
        try:
            if self._file is None or _stamp(self._file.stat()) == self._stamp:
                return False
            self._load()
        except (ConfigError, OSError) as error:
            self.failures += 1
            self._stamp = None
            _log.error("the keys from before stay: %s", error)
            return False
        _log.info("keys read again: %s", ", ".join(key.name for key in self._known))
        return before != self._known

    def _load(self) -> None:
        listed: list[Key] = []
        if self._file is not None:
            text, self._stamp = _read(self._file)
            listed = _parsed(text, f"keys = {str(self._file)!r}")
        known = (*self._fixed, *listed)
        if not known:
            raise ConfigError("server", f"keys: there is no entry; {_REMEDY}")
        names = [key.name for key in known]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError("server", f"keys: {name!r} names two keys; give each its own name")
        self._known = known


def new_key(name: str, scopes: Sequence[str]) -> tuple[str, str]:
    """Make a key.

    Returns
    -------
    key, entry : str
        The key, which nothing can restore from the entry, and its entry.

    Raises
    ------
    ConfigError
        For an unknown scope, or a name that an entry cannot hold.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError("key", f"name = {name!r}: give letters, digits, '.', '_' and '-', 64 at most")
    wrong = [scope for scope in scopes if scope not in SCOPES]
    if wrong or not scopes:
        raise ConfigError("key", f"scope = {wrong[0] if wrong else ''!r}: there are: {', '.join(SCOPES)}")
    key = _PREFIX + secrets.token_urlsafe(32)
    named = ",".join(scope for scope in SCOPES if scope in scopes)
    return key, f"{name} {named} sha256:{hashlib.sha256(key.encode()).hexdigest()}"


def add_line(file: Path, entry: str) -> None:
    """Append an entry to a file of keys, which is created for its owner alone.

    Raises
    ------
    ConfigError
        If the file has a key of this name, or would not be accepted.
    OSError
        If it cannot be written.
    """
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "r+", encoding="utf-8") as opened:
        _check_owner(file, os.fstat(descriptor))
        text = opened.read()
        name = entry.split()[0]
        if name in [key.name for key in _parsed(text, str(file))]:
            raise ConfigError("key", f"name = {name!r}: {file} has a key of this name; remove its line, or choose another name")
        opened.write(("" if not text or text.endswith("\n") else "\n") + entry + "\n")


def _parsed(text: str, where: str) -> list[Key]:
    keys = []
    for number, line in enumerate(re.split(r"[\n;]", text), 1):
        words = line.partition("#")[0].split()
        if words:
            keys.append(_key(words, f"{where}: entry {number}"))
    return keys


def _key(words: Sequence[str], where: str) -> Key:
    """Read an entry. Messages never repeat the hash: somebody may have written the key there."""
    if len(words) != 3 or not _NAME.fullmatch(words[0]):
        raise ConfigError("server", f"{where}: is not `name scopes sha256:hash`; {_REMEDY}")
    name, scopes, value = words
    wrong = sorted(set(scopes.split(",")) - set(SCOPES))
    if wrong:
        raise ConfigError("server", f"{where}: {name!r} has the scope {wrong[0]!r}; there are: {', '.join(SCOPES)}")
    match = _HASH.fullmatch(value)
    if match is None:
        raise ConfigError("server", f"{where}: {name!r} has no sha256: and 64 hexadecimal digits; {_REMEDY}")
    granted = frozenset(scopes.split(","))
    return Key(name, granted | {"metrics"} if "admin" in granted else granted, bytes.fromhex(match[1]))


def _read(file: Path) -> tuple[str, tuple[int, ...]]:
    """Text of a file and its stamp. The checks concern the opened file, not what the name means a moment later."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, encoding="utf-8") as opened:
            status = os.fstat(descriptor)
            _check_owner(file, status)
            return opened.read(), _stamp(status)
    except OSError as error:
        raise ConfigError("server", f"keys = {str(file)!r}: cannot be read ({error.strerror}); {_REMEDY}") from error
    except UnicodeDecodeError as error:
        raise ConfigError("server", f"keys = {str(file)!r}: is not text; {_REMEDY}") from error


def _check_owner(file: Path, status: os.stat_result) -> None:
    where = f"keys = {str(file)!r}"
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError("server", f"{where}: is no file; {_REMEDY}")
    if status.st_uid not in (os.geteuid(), 0):
        raise ConfigError("server", f"{where}: belongs to user {status.st_uid}; give it to user {os.geteuid()}, who runs this")
    if status.st_mode & (stat.S_IROTH | stat.S_IWOTH | stat.S_IWGRP):
        raise ConfigError("server", f"{where}: others may read or change it (mode {status.st_mode & 0o777:o}); chmod 600 it")


def _stamp(status: os.stat_result) -> tuple[int, ...]:
    return status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_size
