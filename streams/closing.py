"""When an impression closes, and which of its positions count as not clicked then."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Closing"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Closing:
    """Rule for closing impressions before their window ends.

    A click is any interaction that joins the impression while it is open, whatever its kind or reward: it shows that the
    visitor has seen the list down to there.

    Attributes
    ----------
    after_click : float or None
        Seconds of event time between a click and the closing. None: only the end of the window closes an impression.
    click : {"first", "last"}
        The click from which the seconds count: the impression's first, or its last so far, so that each click puts the
        closing off.
    below_clicks : {"learn", "skip"}
        What happens to the positions below the lowest clicked one: reward 0 like the others, or no row at all, because the
        visitor may not have seen them. An impression without a click keeps all rows.
    """

    after_click: float | None = None
    click: Literal["first", "last"] = "last"
    below_clicks: Literal["learn", "skip"] = "learn"

    def positions(self, touched: int, count: int) -> int:
        """Return how many positions, from the first, get an outcome when an impression closes.

        Parameters
        ----------
        touched : int
            Bit mask of the clicked positions.
        count : int
            Positions of the impression.
        """
        return touched.bit_length() if touched and self.below_clicks == "skip" else count
