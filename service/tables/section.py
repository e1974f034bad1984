"""What the tables of a config file have in common."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Count", "Keywords", "Positive", "Section", "Single"]

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(gt=0)]
Single = Annotated[float, Field(ge=-3.4e38, le=3.4e38)]
"""A number that is finite as a float32."""
Keywords = dict[str, Any]


class Section(BaseModel):
    """A table whose keys are all known and of the right type, and do not change."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
