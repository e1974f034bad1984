"""Cut a JSON list into its elements in short steps, before any of them is built."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from memory.jit import njit

__all__ = ["NotAList", "TooMany", "compile_scan", "elements"]

STEP = 1 << 18
"""Bytes that are scanned before the event loop serves others: less than a millisecond."""

_BLANK = b" \t\r\n"
_DEPTH, _QUOTED, _ESCAPED, _FOUND, _ENDED = range(5)
"""Meaning of the entries of a scan's state."""


class NotAList(ValueError):
    """The text is not a JSON list."""


class TooMany(ValueError):
    """The list has more elements than allowed."""


def compile_scan() -> None:
    """Compile what `elements` needs, before the first request has to wait for it."""
    _scan(np.frombuffer(b"]", np.uint8), 0, 1, np.array([1, 0, 0, 0, 0]), np.empty(1, np.int64))


async def elements(text: bytes, most: int) -> Iterator[bytes]:
    """Yield the text of each element of a JSON list.

    The brackets and quotes around the elements are checked, not the elements: each still has to be decoded. A decoder would
    build, or hold on to, millions of them before it could tell that they are too many.

    Parameters
    ----------
    text : bytes
        It begins with ``[``, after blanks.
    most : int
        Most elements.

    Raises
    ------
    NotAList
        When the list has no end, or something follows it.
    TooMany
        When it has more than `most` elements.
    """
    begin = text.index(b"[") + 1
    ends, state = np.empty(most + 1, np.int64), np.zeros(5, np.int64)
    state[_DEPTH] = 1
    array, at = np.frombuffer(text, np.uint8), begin
    while at < len(text) and not state[_ENDED] and state[_FOUND] <= most:
        if at > begin:
            await asyncio.sleep(0)
        at = _scan(array, at, min(at + STEP, len(text)), state, ends)
    if state[_FOUND] > most:
        raise TooMany
    if state[_ENDED] != 1:
        raise NotAList(
            "it has no end" if not state[_ENDED] else f"it is closed by {text[at - 1 : at].decode()} at byte {at - 1}"
        )
    if text[at:].strip(_BLANK):
        raise NotAList(f"something follows its end at byte {at}")
    if state[_FOUND] == 1 and not text[begin : ends[0]].strip(_BLANK):
        return iter(())
    return _cut(text, begin, ends[: state[_FOUND]])


def _cut(text: bytes, begin: int, ends: npt.NDArray[np.int64]) -> Iterator[bytes]:
    for end in ends.tolist():
        yield text[begin:end].strip(_BLANK)
        begin = end + 1


@njit(cache=True, nogil=True)
def _scan(text: npt.NDArray[np.uint8], at: int, stop: int, state: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]) -> int:
    """Note where elements end, from `at` to `stop` or until `ends` is full; return where to go on."""
    depth, quoted, escaped, found = state[0], state[1], state[2], state[3]
    while at < stop and found < ends.size and state[4] == 0:
        byte = text[at]
        if quoted:
            if escaped:
                escaped = 0
            elif byte == 0x5C:  # backslash
                escaped = 1
            elif byte == 0x22:  # quote
                quoted = 0
        elif byte == 0x22:
            quoted = 1
        elif byte == 0x5B or byte == 0x7B:  # [ {
            depth += 1
        elif byte == 0x5D or byte == 0x7D:  # ] }
            depth -= 1
            if depth == 0:
                ends[found] = at
                found += 1
                state[4] = 1 if byte == 0x5D else 2
        elif byte == 0x2C and depth == 1:  # comma
            ends[found] = at
            found += 1
        at += 1
    state[0], state[1], state[2], state[3] = depth, quoted, escaped, found
    return at
