"""Proof that the service made a ranking: only then are the numbers in its impression believed."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from base64 import b64encode
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from streams.codec import encode
from streams.events import Impression

__all__ = ["Believes", "Signer", "nobody"]

Believes = Callable[[Impression], bool]

FILE = "signing.key"
"""In the data folder, readable by its owner alone."""

_KEY_BYTES, _SIGNATURE_BYTES = 32, 16


class Signer:
    """Signs impressions, and tells its own from others'.

    Parameters
    ----------
    key : bytes or callable returning bytes or None
        Shared by all processes of one service, and known to nobody else. A callable is asked when the key is first needed, and
        again while it has none: until then nothing is signed.

    Notes
    -----
    The signature is BLAKE2b (RFC 7693) with a key over the encoded event, 16 bytes.
    """

    def __init__(self, key: bytes | Callable[[], bytes | None]) -> None:
        self._key = key

    @classmethod
    def of_writer(cls, folder: Path | None) -> Signer:
        """Signer with the key of a data folder, which is made when it is missing; None: a key for this process alone.

        Raises
        ------
        OSError
            When the folder cannot be read or written.
        """
        if folder is None:
            return cls(secrets.token_bytes(_KEY_BYTES))
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / FILE
        if not file.exists():
            beside = folder / f".{FILE}.{secrets.token_hex(8)}"
            with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as made:
                made.write(secrets.token_bytes(_KEY_BYTES))
                made.flush()
                os.fsync(made.fileno())
            # A link does not replace a file: of several processes that start at once, the first one's key is everybody's.
            with suppress(FileExistsError):
                os.link(beside, file)
            beside.unlink()
        return cls(file.read_bytes())

    @classmethod
    def of_reader(cls, folder: Path | None) -> Signer:
        """Signer with the key that the writer of a data folder makes, perhaps later."""
        return cls(lambda: None if folder is None else _read(folder))

    def encoded(self, impression: Impression) -> bytes:
        """The impression as a log takes it, with a signature of all that it says; without one while there is no key.

        Raises
        ------
        streams.codec.BadEvent
            For an impression that JSON cannot carry.
        """
        key, data = self._known(), _unsigned(impression)
        return data if key is None else data[:-1] + b',"signature":"' + b64encode(_mac(data, key)) + b'"}'

    def believes(self, impression: Impression) -> bool:
        """Whether this impression was signed with this key, and not changed since."""
        key = self._known() if impression.signature else None
        return key is not None and hmac.compare_digest(impression.signature, _mac(_unsigned(impression), key))

    def _known(self) -> bytes | None:
        if callable(self._key):
            found = self._key()
            if found is None:
                return None
            self._key = found
        return self._key


def _unsigned(impression: Impression) -> bytes:
    return encode(msgspec.structs.replace(impression, signature=b""))


def _mac(data: bytes, key: bytes) -> bytes:
    return hashlib.blake2b(data, key=key, digest_size=_SIGNATURE_BYTES).digest()


def _read(folder: Path) -> bytes | None:
    try:
        return (folder / FILE).read_bytes()
    except OSError:
        return None


def nobody(impression: Impression) -> bool:
    """Believe no impression: for whoever has no key."""
    return False
