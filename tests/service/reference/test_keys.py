from __future__ import annotations

import pytest

from service.reference.keys import Key, all_learners, learner_keys, section_keys, tables

SECTIONS = [key for section in ["", *tables()] for key in section_keys(section)]
KEYWORDS = [key for section, name, _ in all_learners() for key in learner_keys(section, name)]


@pytest.mark.parametrize("key", SECTIONS + KEYWORDS, ids=lambda key: f"{key.section}.{key.name}")
def test_each_key_says_what_it_means_and_allows(key: Key) -> None:
    # These two are said by their names.
    assert key.text or key.name in {"user", "item"}
    assert "object of class" not in key.type
    assert "Annotated" not in key.type


def test_a_key_of_a_section() -> None:
    (window,) = [key for key in section_keys("stream") if key.name == "lateness"]
    text = "Seconds after the window in which an interaction still corrects what was learned."
    assert window == Key("stream", "lateness", "a number at least 0", 600.0, text)
    assert "stream.columns" in tables()


def test_a_key_of_a_learner() -> None:
    keys = {key.name: key for key in learner_keys("ranker", "river_model")}
    assert (keys["encoding"].type, keys["encoding"].default) == ("'onehot' or 'columns'", "onehot")


def test_what_the_service_fills_in_is_no_key() -> None:
    assert "retriever" not in {key.name for key in learner_keys("ranker", "sequential")}
    assert "width" not in {key.name for key in learner_keys("rerankers", "reloop2")}
