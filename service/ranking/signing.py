"""Signatures of impressions: the numbers in an impression are trusted only if the service itself made it."""

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

__all__ = ["Signer", "Verifier", "trust_none"]

Verifier = Callable[[Impression], bool]

FILE = "signing.key"
"""Name of the key file in the data folder. Only its owner can read it."""

_KEY_BYTES, _SIGNATURE_BYTES = 32, 16


class Signer:
    """Signs impressions, and verifies signatures.

    Parameters
    ----------
    key : bytes or callable returning bytes or None
        Secret shared by all processes of one service. A callable is called when the key is first needed, and again as long as
        it returns None. Nothing is signed before it returns a key.

    Notes
    -----
    The signature is keyed BLAKE2b (RFC 7693) over the encoded event, 16 bytes.
    """

    def __init__(self, key: bytes | Callable[[], bytes | None]) -> None:
        self._key = key

    @classmethod
    def for_writer(cls, folder: Path | None) -> Signer:
        """Return a signer with the key of a data folder, and create a missing key. None: a key for this process only.

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
            temporary = folder / f".{FILE}.{secrets.token_hex(8)}"
            with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as made:
                made.write(secrets.token_bytes(_KEY_BYTES))
                made.flush()
                os.fsync(made.fileno())
            # A link never replaces a file: when several processes start at once, all use the first one's key.
            with suppress(FileExistsError):
                os.link(temporary, file)
            temporary.unlink()
        return cls(file.read_bytes())

    @classmethod
    def for_reader(cls, folder: Path | None) -> Signer:
        """Return a signer with the key that the writer of a data folder creates, perhaps later."""
        return cls(lambda: None if folder is None else _read(folder))

    def encoded(self, impression: Impression) -> bytes:
        """Encode an impression for the log, with a signature over all its fields. While there is no key, it is not signed.

        Raises
        ------
        streams.codec.BadEvent
            For an impression that JSON cannot carry.
        """
        key, data = self._load_key(), _unsigned(impression)
        return data if key is None else data[:-1] + b',"signature":"' + b64encode(_mac(data, key)) + b'"}'

    def verify(self, impression: Impression) -> bool:
        """Whether this impression was signed with this key and has not been changed since."""
        key = self._load_key() if impression.signature else None
        return key is not None and hmac.compare_digest(impression.signature, _mac(_unsigned(impression), key))

    def _load_key(self) -> bytes | None:
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


def trust_none(impression: Impression) -> bool:
    """Trust no impression: for processes without a key."""
    return False
