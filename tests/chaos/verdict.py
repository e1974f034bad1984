"""Whether everything adds up."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from service.config import Config
from service.process.logs import data_folder, open_log
from streams.dead_letters import DeadLetters
from streams.lmdb_log import LmdbLog
from tests.chaos.config import SPAN
from tests.chaos.fold import Folded, fold, replayed
from tests.chaos.producer import Producer
from tests.chaos.tally import Tally, records_of

__all__ = ["compare", "judge"]


def judge(
    counted: dict[str, Any],
    digests: dict[str, str],
    statuses: Mapping[str, Mapping[str, Any]],
    folder: Path,
    settings: Config,
    producer: Producer,
) -> list[str]:
    """Read the log, fold it, and say what does not agree; figures go into `counted` and `digests`."""
    tally = Tally(SPAN)
    with closing(open_log(settings, readonly=True)) as log, (folder / "events.jsonl").open("w") as copy:
        for record in records_of(log):
            tally.add(record)
            copy.write(json.dumps([record.partition, record.offset, record.timestamp, record.value.decode()]) + "\n")
        ends = {str(partition): end for partition, end in log.end().items()}
    counted |= {
        "records": tally.records,
        "sent": producer.sent,
        "accepted": producer.accepted,
        "appended": producer.bad + producer.repeated,
        "retries": producer.retries,
        "early": tally.early.total(),
        **tally.kinds,
        "dead": tally.dead.total(),
    }
    # A replica does not have the private part of the state; what it has is compared with the trainer's.
    whole = {name: status["digest"] for name, status in statuses.items() if "digest" in status}
    shared = {f"{name}, shared": status["shared_digest"] for name, status in statuses.items()}
    problems = tally.problems
    try:
        folded = fold(settings)
        whole |= {"fold": folded.digest, "replay": replayed(settings)}
        problems += compare(tally, folded, producer)
    except (LookupError, OSError) as error:
        problems.append(f"cannot be folded: {error}")
    digests |= whole | shared
    problems += [f"states differ: {alike}" for alike in (whole, shared) if len(set(alike.values())) > 1]
    for name, status in statuses.items():
        if status["next"] != ends:
            problems.append(f"{name} is at {status['next']}, and the log ends at {ends}")
    if {status["version"] for status in statuses.values()} != {statuses["trainer"]["version"]}:
        problems.append(f"versions differ: { {name: status['version'] for name, status in statuses.items()} }")
    return problems + _letters(settings, tally)


def compare(tally: Tally, folded: Folded, producer: Producer) -> list[str]:
    """What does not agree between log, fold and producer."""
    problems = [
        f"{kind}: the log has {tally.kinds[kind]}, and {folded.kinds[kind]} were folded"
        for kind in ("impressions", "interactions", "duplicates")
        if folded.kinds[kind] != tally.kinds[kind]
    ]
    if folded.dead != tally.dead:
        problems.append(f"dead: the log has {tally.dead}, and {folded.dead} were refused")
    missing, extra = tally.clicks - folded.clicks, folded.clicks - tally.clicks
    if missing or extra - tally.early:
        problems.append(
            f"clicks: never learned: {dict(missing)}; learned without being there, or twice: {dict(extra - tally.early)}"
        )
    if folded.kinds["early"] != extra.total():
        problems.append(f"early: {folded.kinds['early']} were joined later, and {extra.total()} clicks were learned again")
    if lost := producer.ids - tally.ids.keys():
        problems.append(f"accepted and not in the log: {sorted(lost)}")
    if invented := tally.ids.keys() - producer.ids:
        problems.append(f"in the log and never accepted: {sorted(invented)}")
    if producer.accepted != producer.sent:
        problems.append(f"{producer.sent} events were sent, and {producer.accepted} accepted")
    if tally.dead.total() < producer.bad:
        problems.append(f"{producer.bad} bad records were appended, and the log has {tally.dead.total()}")
    if tally.kinds.total() + tally.dead.total() != tally.records:
        problems.append(f"{tally.kinds} and {tally.dead} are not all of {tally.records} records")
    return problems


def _letters(settings: Config, tally: Tally) -> list[str]:
    """Whether the trainer, in all its lives, wrote one dead letter for each bad record."""
    folder = data_folder(settings)
    assert folder is not None
    letters = DeadLetters(LmdbLog(folder / "dead", readonly=True))
    places = sorted((letter.partition, letter.offset) for letter in letters.read(1_000_000))
    letters.close()
    return [] if places == sorted(tally.bad) else [f"dead letters are of {places}, and bad records at {sorted(tally.bad)}"]
