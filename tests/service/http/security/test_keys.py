"""API keys: their entries, their file, and how they are compared."""

from __future__ import annotations

import hashlib
import hmac
import os
from pathlib import Path

import pytest

from service.config import ConfigError
from service.http.security import keys as module
from service.http.security.keys import VARIABLE, Keys, add_line, new_key


def entry(name: str, scopes: str, key: str) -> str:
    return f"{name} {scopes} sha256:{hashlib.sha256(key.encode()).hexdigest()}"


def written(path: Path, *lines: str, mode: int = 0o600) -> Path:
    path.write_text("\n".join(lines) + "\n")
    path.chmod(mode)
    return path


def test_a_new_key_is_found_by_its_entry_and_the_entry_does_not_hold_it() -> None:
    key, line = new_key("shop", ["write", "read"])
    assert key not in line and line.startswith("shop read,write sha256:")
    found = Keys(line).find(key.encode())
    assert found is not None and (found.name, found.scopes) == ("shop", {"read", "write"})
    assert len(key) == len("freshet_") + 43 and key != new_key("shop", ["read"])[0], "256 random bits"


def test_what_is_no_key_is_not_found() -> None:
    known = Keys(entry("a", "read", "first") + ";" + entry("b", "admin", "second"))
    for wrong in (b"", b"firs", b"first ", b"FIRST", hashlib.sha256(b"first").hexdigest().encode(), b"\xff" * 10_000):
        assert known.find(wrong) is None
    second = known.find(b"second")
    assert second is not None and second.scopes == {"admin", "metrics"}, "who operates may read the metrics"


def test_every_entry_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    known = Keys("\n".join(entry(f"k{n}", "read", f"key {n}") for n in range(5)))
    compared: list[bytes] = []
    compare = hmac.compare_digest

    def noted(one: bytes, other: bytes) -> bool:
        compared.append(one)
        return compare(one, other)

    monkeypatch.setattr(module.hmac, "compare_digest", noted)
    for sent in (b"key 0", b"key 4", b"no key"):
        compared.clear()
        known.find(sent)
        assert len(set(compared)) == 5, "an early end would tell which entry matched"


def test_entries_of_the_environment_and_the_file_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert Keys.given(None) is None
    file = written(
        tmp_path / "keys", "# who may do what", "", entry("a", "read", "one") + "  # the shop", entry("b", "write", "two")
    )
    of_file = Keys.given(str(file))
    assert of_file is not None and of_file.find(b"two") is not None
    monkeypatch.setenv(VARIABLE, entry("c", "read", "three"))
    both = Keys.given(str(file))
    assert both is not None and all(both.find(key) for key in (b"one", b"two", b"three"))
    monkeypatch.setenv(VARIABLE, entry("b", "read", "three"))
    with pytest.raises(ConfigError, match="'b' names two keys"):
        Keys.given(str(file))


SECRET = "freshet_thisIsAKeyAndNoHashAndMustNeverBeRepeatedAnywhere"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (SECRET, "entry 1: is not `name scopes sha256:hash`"),
        (f"shop read {SECRET}", "'shop' has no sha256: and 64 hexadecimal digits"),
        (f"shop sha256:{'0' * 64} read", "has the scope 'sha256"),
        (f"shop read,wirte sha256:{'0' * 64}", "'shop' has the scope 'wirte'; there are: read, write, metrics, admin"),
        (f"shop read sha256:{'0' * 63}", "64 hexadecimal digits"),
        (f"a b read sha256:{'0' * 64}", "is not `name scopes"),
        (f"s/p read sha256:{'0' * 64}", "is not `name scopes"),
        ("# nothing", "there is no entry; make a key"),
    ],
)
def test_a_wrong_entry_is_refused_by_its_number_and_never_repeated(text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Keys(text)
    assert problem in str(refused.value) and SECRET not in str(refused.value)


@pytest.mark.parametrize(
    ("mode", "good"), [(0o600, True), (0o400, True), (0o640, True), (0o644, False), (0o620, False), (0o602, False)]
)
def test_a_file_that_others_may_read_or_change_is_refused(tmp_path: Path, mode: int, good: bool) -> None:
    file = written(tmp_path / "keys", entry("a", "read", "one"), mode=mode)
    if good:
        assert Keys(file=file).find(b"one") is not None
    else:
        with pytest.raises(ConfigError, match=r"others may read or change it .* chmod 600"):
            Keys(file=file)
        with pytest.raises(ConfigError, match="chmod 600"):
            add_line(file, new_key("b", ["read"])[1])


def test_a_file_of_another_user_or_none_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = written(tmp_path / "keys", entry("a", "read", "one"))
    with pytest.raises(ConfigError, match="cannot be read"):
        Keys(file=tmp_path / "none")
    with pytest.raises(ConfigError, match="is no file"):
        Keys(file=Path(os.devnull))
    if os.geteuid() == 0:
        os.chown(file, 12345, -1)
    else:
        monkeypatch.setattr(module.os, "geteuid", lambda: 12345)
    with pytest.raises(ConfigError, match="belongs to user"):
        Keys(file=file)


def test_a_link_to_the_file_will_do_as_secrets_are_mounted_so(tmp_path: Path) -> None:
    written(tmp_path / "data", entry("a", "read", "one"))
    (tmp_path / "keys").symlink_to("data")
    known = Keys(file=tmp_path / "keys")
    written(tmp_path / "next", entry("b", "read", "two"))
    (tmp_path / "link").symlink_to("next")
    (tmp_path / "link").replace(tmp_path / "keys")
    assert known.refresh() and known.find(b"two") is not None and known.find(b"one") is None


def test_keys_are_read_again_when_the_file_changes_and_a_broken_file_changes_nothing(tmp_path: Path) -> None:
    file = written(tmp_path / "keys", entry("a", "read", "one"))
    known = Keys(file=file)
    assert not known.refresh()
    written(file, entry("a", "read", "one"), entry("b", "read", "two"))
    assert known.refresh() and known.find(b"two") is not None
    written(file, entry("b", "read", "two"))
    assert known.refresh() and known.find(b"one") is None, "taken back"
    for broken in ("nonsense", ""):
        written(file, broken)
        assert not known.refresh()
        assert known.find(b"two") is not None
    file.unlink()
    assert not known.refresh() and known.failures == 3 and known.find(b"two") is not None
    written(file, entry("c", "read", "three"))
    assert known.refresh() and known.find(b"three") is not None and known.find(b"two") is None


def test_an_entry_is_added_to_a_file_for_its_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    first, second = new_key("a", ["read"]), new_key("b", ["admin"])
    add_line(file, first[1])
    file.write_text(file.read_text().rstrip("\n"))
    add_line(file, second[1])
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.read_text().splitlines() == [first[1], second[1]]
    with pytest.raises(ConfigError, match="has a key of this name"):
        add_line(file, new_key("a", ["write"])[1])
    known = Keys(file=file)
    assert known.find(first[0].encode()) is not None and known.find(second[0].encode()) is not None


@pytest.mark.parametrize(("name", "scopes"), [("a b", ["read"]), ("", ["read"]), ("a;b", ["read"]), ("a", ["reed"]), ("a", [])])
def test_a_key_that_no_entry_could_describe_is_not_made(name: str, scopes: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"name = |scope = "):
        new_key(name, scopes)
