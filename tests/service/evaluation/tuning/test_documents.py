"""Values of a config by path, and its text with its comments."""

from __future__ import annotations

import tomllib

import pytest

from service.evaluation.tuning.documents import changed, resolved, rewritten

TEXT = """# top
[stream]   # where
batch_rows = 8

[ranker.fm]   # the ranker
learning_rate = 0.035  # too low
factors = 2

[retrievers.item_knn] # neighbours
last = 5
"""


def test_the_text_keeps_its_comments_and_its_order() -> None:
    text = rewritten(TEXT, {"ranker.fm.learning_rate": 0.5, "ranker.fm.factors": 2, "retrievers.item_knn.last": 7})
    assert text == TEXT.replace("0.035", "0.5").replace("last = 5", "last = 7")
    assert rewritten(TEXT, {}) == TEXT


@pytest.mark.parametrize(
    "values",
    [
        {"ranker.fm.init": 0.2},
        {"history.length": 20, "retrievers.item_knn": False, "retrievers.transitions": True},
        {"rerankers.reloop2": True, "rerankers.reloop2.half_life": 300},
        {"ranker": "fm_mixture", "ranker.fm_mixture.learning_rates.1": 2.0},
        {"ranker": "bias", "policy": "epsilon_greedy", "policy.epsilon_greedy.epsilon": 0.2},
    ],
)
def test_the_text_means_the_changed_document(values: dict[str, object]) -> None:
    document, text = changed(tomllib.loads(TEXT), values), rewritten(TEXT, values)
    assert text.startswith("# top\n[stream]   # where\nbatch_rows = 8\n")
    for path, value in values.items():
        if not isinstance(value, bool) and "." in path:
            assert resolved(document, path) == resolved(tomllib.loads(text), path) == value
    for section in ("retrievers", "ranker", "rerankers"):
        assert tomllib.loads(text).get(section, {}) == document.get(section, {})


def test_a_value_that_is_the_default_is_not_written() -> None:
    assert rewritten(TEXT, {"ranker.fm.init": 0.1, "rerankers.reloop2": False, "ranker": "fm"}) == TEXT


def test_a_missing_section_is_added_to_what_is_there_by_default() -> None:
    assert changed({}, {"retrievers.item_knn": True})["retrievers"] == {"popularity": {}, "item_knn": {}}


def test_the_document_that_is_changed_stays_as_it_is() -> None:
    document = tomllib.loads(TEXT)
    changed(document, {"ranker.fm.factors": 9})
    assert document == tomllib.loads(TEXT)
