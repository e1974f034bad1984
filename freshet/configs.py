"""Configs as a notebook gives them: a path, a dict, or a finished one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from service import config as configs
from service.config import Config

__all__ = ["ConfigLike", "config_of", "with_stream"]

ConfigLike = str | os.PathLike[str] | Mapping[str, Any] | Config | None
"""A config: the path of a TOML file, its contents as a dict, or a `Config`. None: the built-in one."""


def config_of(config: ConfigLike) -> Config:
    """Read and check a config.

    Raises
    ------
    ConfigError
        For a file that cannot be read, or a key or a value that is wrong.

    Examples
    --------
    >>> config_of({"ranker": {"fm": {"factors": 8}}}).ranker
    {'fm': {'factors': 8}}
    """
    if isinstance(config, Config):
        return config
    if isinstance(config, Mapping):
        return configs.parse(config)
    return configs.parse({}) if config is None else configs.load(Path(config))


def with_stream(
    config: Config,
    source: str,
    *,
    columns: Mapping[str, Any] | None = None,
    batch_rows: int | None = None,
    strict: bool = False,
) -> Config:
    """Return the config with another stream to read.

    Parameters
    ----------
    config : Config
    source : str
        A url, or the path of a file.
    columns : mapping or None
        As ``[stream.columns]``. None: those of the config.
    batch_rows : int or None
        None: those of the config.
    strict : bool
        Whether the first bad row is an error. False: as the config says.

    Raises
    ------
    ConfigError
        For a wrong key or value of `columns`, or `batch_rows` below 1.

    Examples
    --------
    >>> with_stream(config_of(None), "ratings.csv", columns={"value": "stars"}).stream.columns.value
    'stars'
    """
    checked = configs.parse(
        {
            "stream": ({} if columns is None else {"columns": dict(columns)})
            | ({} if batch_rows is None else {"batch_rows": batch_rows})
        }
    ).stream
    changes: dict[str, Any] = {"url": source if "://" in source or source.startswith("file:") else f"file:{source}"}
    if columns is not None:
        changes["columns"] = checked.columns
    if batch_rows is not None:
        changes["batch_rows"] = checked.batch_rows
    if strict:
        changes["strict"] = True
    return config.model_copy(update={"stream": config.stream.model_copy(update=changes)})
