"""Rules of requests that a JSON Schema cannot express: a request that only breaks such a rule is rightly refused.

Schemathesis loads this module; see `schemathesis.toml` beside it. All other refusals of requests that the schema allows are
failures.
"""

from __future__ import annotations

from typing import Any

import schemathesis
from schemathesis.core.failures import Failure
from schemathesis.openapi.checks import RejectedPositiveData

UNSAYABLE = (
    " s in the future; at most",  # a timestamp is compared with the clock
    " of the path; remove the field",  # the id in a body is that of the path
    "; send one for each item, or leave it out",  # as many scores and propensities as items
    ".0; send a whole number",  # 52.0 is an integer to JSON Schema
    ", the [reward] of ",  # a value times the reward of its kind is finite as a float32
)


@schemathesis.hook
def filter_failure(context: Any, failure: Failure, case: Any, response: Any) -> bool:
    """Keep a failure, unless it is a refusal for nothing but unsayable reasons."""
    if not isinstance(failure, RejectedPositiveData):
        return True
    answer = response.json()
    reasons = [answer["error"]] if "error" in answer else [result["error"] for result in answer["results"] if "error" in result]
    return not all(any(rule in reason for rule in UNSAYABLE) for reason in reasons)
