"""Builds the search space: from ``[tune]``, or from what the learners of a config declare."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from learners import registry
from learners.registry import available
from learners.tunable import Options, Scale, tunable
from service import config as configs
from service.config import ConfigError
from service.evaluation.tuning.documents import ONE_OF, ROLES, Document, changed, configured, resolved
from service.evaluation.tuning.space import Key, Space, encoded
from service.tables.ranges import Range, joined, parts

__all__ = ["space_of"]

SECTIONS = (*ROLES, "features", "history", "statistics", "negatives")
"""Sections whose keys may be tuned. Others do not change predictions, or they change what is measured."""


def space_of(document: Document, ranges: Mapping[str, Range], learners: Sequence[tuple[str, str]]) -> Space:
    """Build the search space of a config.

    Parameters
    ----------
    document : Document
        The base config.
    ranges : mapping of path to Range
        From ``[tune]``. Empty: everything that the config's learners declare.
    learners : sequence of (str, str)
        Section and name of the learners that matter to the objective, for the search without ranges.

    Raises
    ------
    ConfigError
        Names the key, the value and the remedy.
    """
    if ranges:
        wanted = _completed(document, ranges)
    else:
        wanted = {path: one for section, name in learners for path, one in _of(section, name).items()}
        if not wanted:
            names = ", ".join(name for _, name in learners)
            raise ConfigError("tune", f"{names}: nothing is declared to be worth tuning; add ranges to [tune]")
    try:
        return Space([_key(document, path, one, wanted, widen=path not in ranges) for path, one in wanted.items()])
    except ValueError as error:
        raise error if isinstance(error, ConfigError) else ConfigError("tune", str(error)) from error


def _of(section: str, name: str) -> dict[str, Range]:
    """Ranges that a learner declares, by path."""
    where = joined([section, name])
    declared = tunable(registry.find(ROLES[section], name, where))
    return {f"{where}.{keyword}": _range(one) for keyword, one in declared.items()}


def _range(declared: Scale | Options) -> Range:
    if isinstance(declared, Options):
        return Range(choices=list(declared.values))
    return Range(low=declared.low, high=declared.high, log=declared.log, times=declared.times)


def _completed(document: Document, ranges: Mapping[str, Range]) -> dict[str, Range]:
    """Ranges with the learners' own ones in place of empty tables."""
    found: dict[str, Range] = {}
    for path, one in ranges.items():
        section, *rest = parts(path)
        if section not in SECTIONS:
            reason = f"its section cannot be tuned; the others are: {', '.join(SECTIONS)}"
            raise ConfigError("tune", f"{path}: {reason}. It would change what is measured, or nothing: remove it")
        if one.model_copy(update={"when": {}}) != Range():
            found[path] = one
            continue
        own = _of(section, rest[0]) if section in ROLES and rest else {}
        chosen = own if len(rest) == 1 else {path: own[path]} if path in own else {}
        if not chosen and len(rest) == 1 + (section in ROLES) and isinstance(_looked_up(document, path), bool):
            chosen = {path: Range(choices=[False, True])}
        if not chosen:
            names = ", ".join(own) or "none"
            raise ConfigError(
                "tune", f"{path}: no range is declared for it (declared are: {names}); give low and high, or choices"
            )
        found |= {name: declared.model_copy(update={"when": one.when}) for name, declared in chosen.items()}
    return found


def _key(document: Document, path: str, one: Range, wanted: Mapping[str, Range], *, widen: bool) -> Key:
    section, *rest = parts(path)
    conditions = _conditions(document, path, one, wanted)
    if one.switch:
        if section not in ROLES or section in ONE_OF or len(rest) != 1:
            remedy = "name a section of retrievers, adapters or rerankers, such as rerankers.reloop2"
            raise ConfigError("tune", f"{path}: switch = true: only a learner's section is switched; {remedy}")
        registry.find(ROLES[section], rest[0], path)
        return Key(path=path, choices=(False, True), conditions=conditions, base=rest[0] in configured(document, section))
    if not rest:
        return _learner(document, path, one, conditions)
    base = _looked_up(document, path)
    default = _default(path)
    if one.choices is not None:
        for choice in one.choices:
            _check(document, path, choice, f"choices has {choice!r}")
        return Key(path=path, choices=tuple(map(encoded, one.choices)), conditions=conditions, base=base, default=default)
    low, high = one.low, one.high
    if one.times:
        if not all(isinstance(number, int | float) for number in (base if isinstance(base, list) else [base])):
            raise ConfigError(
                "tune", f"{path}: times = true: {base!r} cannot be multiplied; give low and high of the value itself"
            )
        low, high = float(low), float(high)
        if widen:
            low, high = _around(low, high, base, default)
    else:
        if isinstance(default, float):
            low, high = float(low), float(high)
        if widen and isinstance(base, int | float) and not isinstance(base, bool):
            low, high = min(low, base), max(high, base)
    numbers: dict[str, Any] = {"low": low, "high": high, "log": one.log and low > 0, "step": one.step, "times": one.times}
    key = Key(path=path, conditions=conditions, base=base, default=default, **numbers)
    if not widen:
        for name, end in (("low", low), ("high", high)):
            _check(document, path, key.as_value(end), f"{name} = {end!r}")
    return key


def _learner(document: Document, path: str, one: Range, conditions: Any) -> Key:
    """Key of a section that holds one learner: its name is chosen."""
    if path not in ONE_OF or one.choices is None:
        remedy = f"name a key of it, or give choices for {' or '.join(ONE_OF)}"
        raise ConfigError("tune", f"{path}: a whole section has no range; {remedy}")
    for name in one.choices:
        registry.find(ROLES[path], str(name), f"{path}.{name}")
    (base,) = configured(document, path)
    return Key(path=path, choices=tuple(map(str, one.choices)), conditions=conditions, base=base)


def _around(low: float, high: float, base: Any, default: Any) -> tuple[float, float]:
    """Range of the factor of the base's value that is the declared range of the factor of the default, and has 1."""
    pairs = zip(base, default, strict=False) if isinstance(base, list) and isinstance(default, list) else [(base, default)]
    ratios = [math.log(one / other) for one, other in pairs if one and other and math.isfinite(one / other)]
    ratio = math.exp(sum(ratios) / len(ratios)) if ratios else 1.0
    return min(low / ratio, 1.0), max(high / ratio, 1.0)


def _conditions(
    document: Document, path: str, one: Range, wanted: Mapping[str, Range]
) -> tuple[tuple[str, tuple[Any, ...]], ...]:
    """Values of other keys at which this one matters: its section is there, and what ``when`` says."""
    section, *rest = parts(path)
    found: dict[str, tuple[Any, ...]] = {}
    if section in ROLES and len(rest) > 1:
        above = joined([section, rest[0]])
        if section in ONE_OF and section in wanted:
            if rest[0] not in (wanted[section].choices or []):
                raise ConfigError("tune", f"{path}: {rest[0]!r} is not among the choices of {section}; add it there")
            found[section] = (rest[0],)
        elif above in wanted and wanted[above].switch:
            found[above] = (True,)
        elif rest[0] not in configured(document, section):
            known = ", ".join(configured(document, section)) or "none"
            problem = f"the config has no [{above}] (it has: {known}); add the section"
            remedy = f"or {section} = {{ choices = [...] }}" if section in ONE_OF else f'or "{above}" = {{ switch = true }}'
            raise ConfigError("tune", f"{path}: {problem}, {remedy} to [tune]")
    for other, value in one.when.items():
        if other not in wanted or other == path:
            names = ", ".join(name for name in wanted if name != path)
            raise ConfigError("tune", f"{path}: when = {one.when!r}: {other!r} is not tuned; tuned are: {names}")
        allowed = tuple(map(encoded, value if isinstance(value, list) else [value]))
        choices = [encoded(choice) for choice in wanted[other].choices or []] or [False, True] * wanted[other].switch
        for choice in allowed:
            if choices and choice not in choices:
                raise ConfigError(
                    "tune", f"{path}: when = {one.when!r}: {choice!r} is no choice of {other}; choose of {choices}"
                )
        found[other] = allowed
    return tuple(found.items())


def _with_section(document: Document, path: str) -> Document:
    """The document with the learner that a path names."""
    section, *rest = parts(path)
    if section not in ROLES or not rest or rest[0] in configured(document, section):
        return document
    return changed(document, {section: rest[0]} if section in ONE_OF else {joined([section, rest[0]]): True})


def _looked_up(document: Document, path: str) -> Any:
    """The base's value, or the default of a section that it lacks."""
    section, *rest = parts(path)
    try:
        if section in ROLES and rest and rest[0] not in available(ROLES[section]) and "." not in rest[0]:
            registry.find(ROLES[section], rest[0], f"tune] [{section}.{rest[0]}")
        return resolved(_with_section(document, path), path)
    except (LookupError, TypeError):
        if section in ROLES and rest:
            keys = list(registry.defaults(registry.find(ROLES[section], rest[0])))
        else:
            tables = configs.parse(document).model_dump().get(section)
            keys = list(tables) if isinstance(tables, Mapping) else []
        raise ConfigError(
            "tune", f"{path}: no such key; [{joined(parts(path)[:-1])}] has: {', '.join(keys) or 'none'}"
        ) from None


def _default(path: str) -> Any:
    section, *_ = parts(path)
    try:
        return resolved(_with_section({}, path) if section in ROLES else {}, path)
    except (LookupError, TypeError, ConfigError):
        return None


def _check(document: Document, path: str, value: Any, said: str) -> None:
    """Check a value against the bounds of its key."""
    section, *rest = parts(path)
    try:
        tried = changed(_with_section(document, path), {path: value})
        tables = configs.parse(tried)
        if section in ROLES:
            keywords = dict(getattr(tables, section)[rest[0]])
            registry.check_keywords(registry.find(ROLES[section], rest[0]), {rest[1]: keywords[rest[1]]}, section)
    except ConfigError as error:
        # Other keywords may be missing, which the pipeline adds.
        problems = [problem for problem in error.problems if section not in ROLES or problem.startswith(rest[1])]
        if problems:
            raise ConfigError("tune", f"{path}: {said} is refused: {problems[0]}") from error
