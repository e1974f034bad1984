"""The tables that say what a row is: its features, its reward, and rows that nobody sent."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag

from service.tables.section import Count, Positive, Section, Single

__all__ = ["Features", "FieldSpec", "FieldType", "Negatives", "Reward", "RewardRule", "Statistics"]

Kind = Literal["category", "number", "bucket", "tags"]
"""How an attribute becomes feature columns."""


class FieldType(Section):
    """How an attribute becomes feature columns; see `learners.features.Field`.

    Attributes
    ----------
    type : {"category", "number", "bucket", "tags"}
    width : float
        Of a bucket.
    max_tags : int
        Most tags of a value that are read.
    mean, scale : float or None
        A number x becomes (x - mean) / scale; None: both are learned.
    """

    type: Kind
    width: Positive = 1.0
    max_tags: Annotated[int, Field(gt=0, le=64)] = 8
    mean: Single | None = None
    scale: Positive | None = None


def _form(value: object) -> str:
    """Form of a value, table or plain. Errors then concern this form only."""
    return "table" if isinstance(value, dict | Section) else "plain"


FieldSpec = Annotated[Annotated[Kind, Tag("plain")] | Annotated[FieldType, Tag("table")], Discriminator(_form)]
"""Type of a field: its name, or a table with options."""


class Features(Section):
    """Fields of users, items and contexts; see `learners.features`.

    Attributes
    ----------
    user, item, context : dict
        Type of each field by its name. The field ``id`` is the id of the user or item itself.
    crosses : tuple of str
        Products of fields, such as ``"user.id * item.genres"``.
    retrieval : bool
        Whether the score of each retriever is a feature of each row.
    """

    user: dict[str, FieldSpec] = Field(default={"id": "category"})
    item: dict[str, FieldSpec] = Field(default={"id": "category"})
    context: dict[str, FieldSpec] = Field(default={})
    crosses: tuple[str, ...] = Field(default=(), strict=False)
    retrieval: bool = False


class RewardRule(Section):
    """Reward by a threshold on the interaction's value.

    Attributes
    ----------
    at_least : float
        The threshold.
    then : float
        Reward of values from the threshold on.
    otherwise : float
        Reward of smaller values.
    """

    at_least: float
    then: Single = 1.0
    otherwise: Single = 0.0


Reward = Annotated[Annotated[Single, Tag("plain")] | Annotated[RewardRule, Tag("table")], Discriminator(_form)]
"""Reward of an interaction of a kind: a number, or a rule as a table."""


class Statistics(Section):
    """Decayed clicks, click rates, ages and numbers of candidates as features.

    Attributes
    ----------
    users, items : int
        Most of each that are kept. One takes 48 bytes with two half-lives, and its place in the index.
    half_lives : tuple of float
        Half-lives of the counts, in seconds.
    """

    users: Count = 100_000
    items: Count = 100_000
    half_lives: tuple[Positive, ...] = Field(default=(3600.0, 86_400.0), strict=False, min_length=1)


class Negatives(Section):
    """Items that the user did not choose, drawn for each positive interaction without an impression.

    See ``docs/decisions/0034-negatives.md``.

    Attributes
    ----------
    n : int
        Items drawn for each. 0: a ranker learns from such interactions alone, as from ratings that are bad as well as good.
    source : {"uniform", "popular", "candidates"}
        Drawn from all items, by recent popularity, or from what the retrievers have for the user.
    """

    n: Annotated[int, Field(ge=0, le=100)] = 0
    source: Literal["uniform", "popular", "candidates"] = "uniform"
