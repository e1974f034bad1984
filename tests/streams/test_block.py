from __future__ import annotations

import numpy as np
import pytest

from streams.block import Block, Column
from streams.events import Interaction


class TestBlock:
    block = Block(
        user=Column(np.array([0, 1, 0], np.int32), ["a", "b"]),
        item=Column(np.array([0, 0, 1], np.int32), ["x", "y"]),
        kind=Column(np.array([0, 1, 0], np.int32), ["click", "buy"]),
        value=np.array([1.0, 2.0, 3.0]),
        timestamp=np.array([10.0, 20.0, 30.0]),
        context={"page": Column(np.array([0, -1, 0], np.int32), ["home"]), "place": np.array([1.0, 2.0, np.nan])},
    )
    events = (
        Interaction(user="a", item="x", kind="click", value=1.0, timestamp=10.0, context={"page": "home", "place": 1.0}),
        Interaction(user="b", item="x", kind="buy", value=2.0, timestamp=20.0, context={"place": 2.0}),
        Interaction(user="a", item="y", kind="click", value=3.0, timestamp=30.0, context={"page": "home"}),
    )

    def test_rows_are_events(self) -> None:
        assert self.block.rows == 3
        assert tuple(self.block.interactions()) == self.events

    def test_a_slice_is_a_view_of_the_same_rows(self) -> None:
        cut = self.block.slice(1, 3)
        assert tuple(cut.interactions()) == self.events[1:]
        assert cut.user.names is self.block.user.names
        assert np.shares_memory(cut.value, self.block.value)

    def test_a_row_of_nobody_is_refused(self) -> None:
        nobody = Column(np.array([-1]), ["a"])
        one = np.ones(1)
        with pytest.raises(ValueError, match="a row has user None"):
            list(Block(nobody, Column(np.array([0]), ["x"]), "click", one, one).interactions())
