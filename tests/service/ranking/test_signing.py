"""Only impressions that the service signed are trusted."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from service.ranking.signing import FILE, Signer
from streams.codec import decode, encode
from streams.events import Impression

MADE = Impression(
    request_id="r",
    user="u",
    items=("a", "b"),
    features=b"\x00\x01",
    scores=(0.1, 0.30000001192092896),
    propensities=(0.975, 1.0),
    context={"device": "tv", "x": 1e300, "y": True},
    carried={"diag_linucb": b"abc"},
    history=b"xyz",
    version=3,
    timestamp=1.7e9 + 1 / 3,
)


def signed_by(signer: Signer) -> Impression:
    """The signed impression as it is read from the log."""
    event = decode(signer.encoded(MADE))
    assert isinstance(event, Impression)
    return event


def test_a_signed_impression_is_trusted_and_a_changed_one_is_not() -> None:
    signer = Signer.for_writer(None)
    signed = signed_by(signer)
    assert signer.verify(signed)
    assert encode(signed) != encode(MADE) == encode(msgspec.structs.replace(signed, signature=b""))
    changes = {
        **dict.fromkeys(("features", "history", "base", "unshown", "signature"), b"1"),
        **dict.fromkeys(("request_id", "user", "source", "config"), "x"),
        **{"items": ("b", "a"), "scores": (0.1, 0.4), "propensities": (1.0, 1.0)},
        **{"context": {}, "carried": {}, "version": 4, "timestamp": 1.0},
    }
    assert changes.keys() == set(Impression.__struct_fields__), "new fields must be signed too"
    for name, value in changes.items():
        assert not signer.verify(msgspec.structs.replace(signed, **{name: value})), name


def test_signatures_with_another_key_are_not_trusted() -> None:
    assert not Signer.for_writer(None).verify(signed_by(Signer.for_writer(None)))
    assert not Signer.for_writer(None).verify(MADE)


def test_processes_that_start_together_share_one_private_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        signers = list(pool.map(Signer.for_writer, [tmp_path / "data"] * 8))
    assert all(one.verify(signed_by(other)) for one in signers for other in signers)
    assert [file.name for file in (tmp_path / "data").iterdir()] == [FILE]
    assert stat.S_IMODE((tmp_path / "data" / FILE).stat().st_mode) == 0o600


@pytest.mark.parametrize("folder", [None, "data"])
def test_a_replica_signs_as_soon_as_the_writer_has_made_the_key(folder: str | None, tmp_path: Path) -> None:
    there = None if folder is None else tmp_path / folder
    replica = Signer.for_reader(there)
    assert signed_by(replica) == MADE
    writer = Signer.for_writer(there)
    assert writer.verify(signed_by(replica)) == (folder is not None)
