"""Read a config file: TOML in, frozen settings out. Unknown, missing and mistyped keys are refused by name.

`service.sections` defines the tables and their keys, `service.refusals` writes the error messages.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from learners import features
from learners.base import Adapter, Ranker, Reranker, Retriever
from learners.features import Featurizer, Side
from learners.registry import ConfigError
from service.fingerprint import fingerprint_of
from service.refusals import explain
from service.sections import Tables
from service.tables.rows import FieldSpec
from service.urls import path_of, scheme_of
from streams.admission.limits import TextLimits

__all__ = ["Config", "ConfigError", "Role", "load", "parse", "read"]

Role = Literal["embedded", "trainer", "replica"]
"""What a process does: learn and serve; learn for replicas; or serve what a trainer learns."""

_STREAM_SOURCE_KEYS = (
    *("url", "options", "retain", "ack", "buffer", "group"),
    *("format", "columns", "kind", "sorted", "strict", "users", "items", "header", "encoding"),
)
"""Keys of ``[stream]`` that do not change the learned state: they only say where events are and how they get there."""

_LEARNERS: dict[type, str] = {Retriever: "retrievers", Ranker: "ranker", Adapter: "adapters", Reranker: "rerankers"}
"""Sections of the stateful learners, in the order in which they learn."""


class Config(Tables):
    """A complete configuration.

    Attributes
    ----------
    name : str
        Name in reports: the file name without its suffix.
    """

    name: str = "default"

    @property
    def fingerprint(self) -> str:
        """Hash of all settings that determine the learned state, defaults included; see `service.fingerprint`.

        Raises
        ------
        ConfigError
            For an unknown learner.
        """
        sections = self.model_dump(exclude={"name", "checkpoint", "weights", "dead_letters", "server", "policy", "tune"})
        for key in _STREAM_SOURCE_KEYS:
            del sections["stream"][key]
        # A field can be written in several ways. The order of the fields is the order of the columns.
        sections["features"] = [asdict(field) for field in self._fields()], self.features.crosses
        learners = {role: sections.pop(section) for role, section in _LEARNERS.items()}
        return fingerprint_of(sections, learners)

    @property
    def folder(self) -> Path | None:
        """Folder of the embedded log; None without one."""
        return path_of(self.stream.url) if scheme_of(self.stream.url) == "lmdb" else None

    @property
    def checkpoints(self) -> Path | None:
        """Folder of this configuration's checkpoints; None: nothing is saved.

        Each fingerprint has its own folder. A changed configuration starts from the log; the old one can be resumed later.
        """
        if self.checkpoint.folder is not None:
            return Path(self.checkpoint.folder) / self.fingerprint
        return self.folder / "checkpoints" / self.fingerprint if self.folder else None

    @property
    def texts(self) -> TextLimits:
        """The limits of ``[limits]``."""
        return TextLimits(**self.limits.model_dump())

    def featurizer(self) -> Featurizer:
        """Build the featurizer that ``[features]`` describes.

        Raises
        ------
        ConfigError
            For a cross of unknown fields.
        """
        try:
            return Featurizer(self._fields(), self.features.crosses)
        except ValueError as error:
            raise ConfigError("features", str(error)) from error

    def _fields(self) -> list[features.Field]:
        """Fields of ``[features]``, in the order of the file."""
        sides: tuple[tuple[Side, dict[str, FieldSpec]], ...] = (
            ("user", self.features.user),
            ("item", self.features.item),
            ("context", self.features.context),
        )
        return [
            features.Field(side=side, name=name, **({"type": kind} if isinstance(kind, str) else kind.model_dump()))
            for side, named in sides
            for name, kind in named.items()
        ]


def parse(document: Mapping[str, Any], name: str = "default") -> Config:
    """Validate a parsed TOML document.

    Raises
    ------
    ConfigError
        Naming the section, the key, the value and the remedy.
    """
    try:
        tables = Tables.model_validate(dict(document))
    except ValidationError as error:
        raise ConfigError(*explain(error, Tables)) from None
    for section in ("ranker", "policy"):
        names = list(getattr(tables, section))
        if len(names) != 1:
            raise ConfigError(section, f"exactly one is needed, as in [{section}.name]; found {names}")
    return Config(name=name, **dict(tables))


def load(path: Path) -> Config:
    """Read a config file.

    Raises
    ------
    ConfigError
        For a file that cannot be read, is not TOML, or has a wrong key or value.
    """
    return parse(tomllib.loads(read(path)), path.stem)


def read(path: Path) -> str:
    """Return the text of a config file, which is TOML.

    Raises
    ------
    ConfigError
        For a file that cannot be read, or is not TOML.
    """
    try:
        text = path.read_text(encoding="utf-8")
        tomllib.loads(text)
    except OSError as error:
        raise ConfigError(str(path), f"cannot be read ({error.strerror}); give the path of a TOML file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(str(path), f"is not TOML: {error}") from error
    return text
