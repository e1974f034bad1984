"""Names of the files that lie beside a recording, which may be compressed or one split of several."""

from __future__ import annotations

import re
from pathlib import Path

from streams.readers.files import compressed

__all__ = ["beside", "plain_name", "stems", "suffix"]

_COMPRESSIONS = ("", ".gz", ".bz2", ".zst", ".lz4")
_SPLIT = re.compile(
    r"[._-](?:train(?:ing)?|valid(?:ation)?|val|dev|test(?:ing)?|eval|base|(?:part|fold|split)?[._-]?\d+)$", re.IGNORECASE
)


def plain_name(path: Path) -> Path:
    """Return a path without the suffix of its compression."""
    return path.with_suffix("") if compressed(path) else path


def suffix(path: Path) -> str:
    """Return the file's suffix in lower case, without that of a compression."""
    return plain_name(path).suffix.lower()


def stems(path: Path) -> list[str]:
    """Return the stem of a recording, and what is left of it without the names of its split: ml.part1, then ml."""
    found = [plain_name(path).stem]
    while (shorter := _SPLIT.sub("", found[-1])) != found[-1]:
        found.append(shorter)
    while "." in found[-1]:
        found.append(found[-1].rpartition(".")[0])
    return [stem for stem in found if stem]


def beside(path: Path, *names: str) -> Path | None:
    """Return the first file in a recording's folder that has one of these names; None if there is none.

    Parameters
    ----------
    path : Path
        The recording.
    names : str
        Names without a compression. A file that is compressed like the recording is preferred.
    """
    own = path.suffix if compressed(path) else ""
    endings = dict.fromkeys((own, *_COMPRESSIONS))
    candidates = (path.with_name(name + ending) for name in dict.fromkeys(names) for ending in endings)
    return next((found for found in candidates if found.is_file()), None)
