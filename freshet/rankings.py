"""Rankings as a notebook gets them: items with scores, and how they came about."""

from __future__ import annotations

from typing import ClassVar

import pyarrow as pa

from freshet.frames import Tabular, html_table
from service.ranking.requests import RankingResponse

__all__ = ["Ranked"]


class Ranked(list[tuple[str, float]], Tabular):
    """Items in order of position, each with its score: a list of ``(item, score)``.

    Parameters
    ----------
    response : RankingResponse
        What the service answers.

    Attributes
    ----------
    response : RankingResponse
        Also has the propensities, the version of the state, the learner whose scores made the order, and the reasons of each
        score if they were asked for.
    tables : tuple of str
        ``items``: item, score and propensity of each position.
    """

    tables: ClassVar[tuple[str, ...]] = ("items",)

    def __init__(self, response: RankingResponse) -> None:
        super().__init__((one.item, one.score) for one in response.items)
        self.response = response

    @property
    def request_id(self) -> str:
        """Id of this ranking. Give it to the interactions that follow from it, if it was logged."""
        return self.response.request_id

    @property
    def items(self) -> list[str]:
        """Ids of the items."""
        return [item for item, _ in self]

    def _table(self, what: str) -> pa.Table:
        items = pa.array(self.items, pa.string())
        score = pa.array([score for _, score in self], pa.float64())
        propensity = pa.array([one.propensity for one in self.response.items], pa.float64())
        return pa.table({"item": items, "score": score, "propensity": propensity})

    def _repr_html_(self) -> str:
        return html_table(self.to_arrow(), f"by {self.response.source}, {self.response.policy}")
