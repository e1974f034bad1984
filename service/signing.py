"""Proof that the service made a ranking: only then are the numbers in its impression believed."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from streams.codec import encode
from streams.events import Impression

__all__ = ["Believes", "Signer", "nobody", "read_key"]

Believes = Callable[[Impression], bool]

FILE = "signing.key"
"""In the data folder, readable by its owner alone."""

_KEY_BYTES, _SIGNATURE_BYTES = 32, 16


class Signer:
    """Signs impressions, and tells its own from others'.

    Parameters
    ----------
    key : bytes
        Shared by all processes of one service, and known to nobody else.

    Notes
    -----
    The signature is BLAKE2b (RFC 7693) with a key over the encoded event, 16 bytes.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key

    @classmethod
    def of_folder(cls, folder: Path | None) -> Signer:
        """Signer with the key of a data folder, which is made when it is missing; None: a key for this process alone.

        Raises
        ------
        OSError
            When the folder cannot be read or written.
        """
        if folder is None:
            return cls(secrets.token_bytes(_KEY_BYTES))
        folder.mkdir(parents=True, exist_ok=True)
        beside = folder / f".{FILE}.{os.getpid()}.{secrets.token_hex(4)}"
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secrets.token_bytes(_KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        try:
            # A link does not replace a file: of several processes that start at once, the first one's key is everybody's.
            with suppress(FileExistsError):
                os.link(beside, folder / FILE)
        finally:
            beside.unlink()
        return cls((folder / FILE).read_bytes())

    def sign(self, impression: Impression) -> Impression:
        """The same impression with a signature of all that it says.

        Raises
        ------
        streams.codec.BadEvent
            For an impression that JSON cannot carry.
        """
        return msgspec.structs.replace(impression, signature=self._digest(impression))

    def believes(self, impression: Impression) -> bool:
        """Whether this impression was signed with this key, and not changed since."""
        return bool(impression.signature) and hmac.compare_digest(impression.signature, self._digest(impression))

    def _digest(self, impression: Impression) -> bytes:
        unsigned = msgspec.structs.replace(impression, signature=b"")
        return hashlib.blake2b(encode(unsigned), key=self._key, digest_size=_SIGNATURE_BYTES).digest()


def nobody(impression: Impression) -> bool:
    """Believe no impression: for whoever has no key."""
    return False


def read_key(folder: Path | None) -> Believes:
    """Whom a reader of a log believes: the key of the data folder tells, if there is one that can be read."""
    try:
        return nobody if folder is None else Signer((folder / FILE).read_bytes()).believes
    except OSError:
        return nobody
