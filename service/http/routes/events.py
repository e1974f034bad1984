"""Routes that append events; changes of items and users are events, too."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Annotated, Any

import msgspec

from learners.features import hash_id
from memory.keyed.catalog import Catalog
from service.http.ingest import Entry, Ingest, LogBusy, entry
from service.http.request_ids import RequestIds
from service.http.routes.elements import NotAList, TooMany, compile_scan, elements
from service.http.routes.route import Answer, Link, Route, problems
from service.http.schemas import EventResult, EventResults, ItemDocument, UserDocument, Written
from service.http.security.access import may
from service.http.web import Failure, Request, RequestHandler, Response, decoded, json, path_id
from service.learning.validation import EventValidator
from service.process.runtime import Runtime
from streams.codec import BadEvent, decode, encode
from streams.events import Event, Forget, Id, Impression, Interaction, ItemUpdate, Tick, UserUpdate
from streams.log import InDoubt, LogFull, Offsets, PartlyRefused, RecordTooLarge

__all__ = ["EventRoutes"]

VISIBLE_SECONDS = 5.0
"""Most seconds to wait until rankings use a change of an item or user; after that the status is 202."""

TURN = 0.001
"""Seconds for which the events of a request are decoded before the event loop serves others."""

LARGE = 65_536
"""Bytes from which on a body is large. Large ones are decoded one after the other, so that together they take one turn."""

NOTED = 512
"""Accepted events that are noted before the event loop serves others."""

_Letter = tuple[str, str, bytes]
"""Kind, reason and data of a rejected event."""

Posted = Impression | Interaction | ItemUpdate | UserUpdate | Forget
"""Events that clients may post: all but the service's own ticks."""

_ID = {"id": ("Id, percent-encoded UTF-8", Id)}
_WRITTEN = {
    200: Answer("Done; rankings use it", Written),
    202: Answer("In the log; rankings will use it", Written),
    **problems(413, 422, 503, 507),
}
_ERASES = "'forget' needs a key with the scope 'admin'; send it with such a key"
_ACCEPTED = EventResult(status="accepted")
_SYNTAX = msgspec.json.Decoder(msgspec.Raw)
_log = logging.getLogger(__name__)


class _Items:
    """Reads items, and makes the events that change them."""

    noun, document = "item", ItemDocument

    def __init__(self, runtime: Runtime) -> None:
        self.catalog: Catalog = runtime.pipeline.items

    def event(self, name: str, document: ItemDocument | None) -> Event:
        if document is None:
            return ItemUpdate(item=name, deleted=True)
        return ItemUpdate(item=name, attributes=document.attributes, timestamp=document.timestamp)


class _Users:
    """Reads users, and makes the events that change them."""

    noun, document = "user", UserDocument

    def __init__(self, runtime: Runtime) -> None:
        self.catalog: Catalog = runtime.pipeline.users

    def event(self, name: str, document: UserDocument | None) -> Event:
        if document is None:
            return UserUpdate(user=name, deleted=True)
        return UserUpdate(user=name, attributes=document.attributes, timestamp=document.timestamp)


class EventRoutes:
    """Events, items and users.

    Parameters
    ----------
    runtime : Runtime
    handler : RequestHandler
    ingest : Ingest
    ids : RequestIds
        Learns the ids of accepted impressions. One whose id was used before is accepted and dropped later: it may be a retry.
    """

    def __init__(self, runtime: Runtime, handler: RequestHandler, ingest: Ingest, ids: RequestIds) -> None:
        self._runtime, self._handler, self._ingest, self._ids = runtime, handler, ingest, ids
        self._queued = runtime.config.stream.ack == "queued"
        self._limits = runtime.config.texts
        self._validator = EventValidator(runtime.config.reward, runtime.config.stream.max_skew, self._limits)
        self._large = asyncio.Lock()
        compile_scan()

    def routes(self) -> Iterable[Route]:
        """All routes of this class."""
        max_events = self._runtime.config.server.max_events
        yield Route(
            "POST",
            "/v1/events",
            self.events,
            scope="write",
            summary="Append events: one, or a list",
            description=(
                "Each event is checked separately: a bad one is kept as a dead letter and does not affect the others. An "
                'accepted event is in the log when the response comes, or in the buffer in memory with `ack = "queued"`. '
                "`forget` events need a key with the scope `admin`; `tick` events are reserved for the service."
            ),
            body=Posted | Annotated[list[Posted], msgspec.Meta(max_length=max_events)],
            narrowed={"Interaction.kind": {"enum": sorted(self._runtime.config.reward)}},
            answers={
                202: Answer("All accepted: they will be learned", EventResults),
                207: Answer("Some accepted", EventResults),
                422: Answer("None accepted", EventResults),
                **problems(400, 413, 415, 503, 507),
            },
        )
        yield Route(
            "POST",
            "/v1/users/{id:id}/forget",
            self.forget,
            scope="admin",
            summary="Delete all data of a user",
            description=(
                "The body is ignored and may be empty, but needs `Content-Type: application/json`. A user whose id ends in "
                "`/forget` can be changed by `POST /v1/events` only."
            ),
            parameters=_ID,
            body=Any,
            answers=_WRITTEN | problems(400, 415),
        )
        yield from self._entry("/v1/items/{id:id}", _Items(self._runtime))
        yield from self._entry("/v1/users/{id:user}", _Users(self._runtime))

    def _entry(self, path: str, entries: _Items | _Users) -> Iterable[Route]:
        noun, document = entries.noun, entries.document
        by_id = {"id": "$request.path.id"}
        named = f"/v1/{noun}s/{{id}}"
        written = Answer(
            "Done; rankings use it",
            Written,
            links={
                "read": Link(f"GET {named}", f"Attributes of the {noun}", by_id),
                "delete": Link(f"DELETE {named}", f"Delete the {noun}", by_id),
            },
        )
        yield Route(
            "PUT",
            path,
            partial(self.put, entries),
            scope="write",
            summary=f"Add or replace the {noun}",
            parameters=_ID,
            body=document,
            answers=_WRITTEN | {200: written} | problems(400, 415),
        )
        yield Route(
            "GET",
            path,
            partial(self.get, entries),
            scope="read",
            summary=f"Attributes of the {noun}",
            parameters=_ID,
            answers={200: Answer("The attributes", document), **problems(404, 422, 503)},
        )
        yield Route(
            "DELETE",
            path,
            partial(self.delete, entries),
            scope="write",
            summary=f"Delete the {noun}",
            parameters=_ID,
            answers=_WRITTEN,
        )

    async def events(self, request: Request) -> Response:
        """Append one event or a list of events, each checked separately."""
        body = await self._handler.body(request)
        async with self._large if len(body) > LARGE else nullcontext():
            good, accepted, bad, results = await self._sorted(body, may(request, "admin"))
        if good and self._queued:
            self._post(good)
        elif good:
            await self._append(good)
        for start in range(0, len(accepted), NOTED):
            if start:
                await asyncio.sleep(0)
            self._runtime.pipeline.pending.add(accepted[start : start + NOTED])
        for event in accepted:
            if isinstance(event, Impression):
                self._ids.claim(event.request_id)
        if bad:
            await asyncio.to_thread(self._keep_letters, bad)
        status = 202 if not bad else 207 if good else 422
        return json(EventResults(accepted=len(good), rejected=len(bad), results=results), status)

    async def _sorted(self, body: bytes, erases: bool) -> tuple[list[Entry], list[Event], list[_Letter], list[EventResult]]:
        """Decode and check the events of a body, in turns: entries, events, rejected ones, and the result of each."""
        single = body.lstrip()[:1] != b"["
        good: list[Entry] = []
        accepted: list[Event] = []
        bad: list[_Letter] = []
        results = []
        now, resumed = time.time(), time.perf_counter()
        for raw in [body] if single else await self._elements(body):
            try:
                event = self._checked(raw, now)
                if isinstance(event, Forget) and not erases:
                    if single:
                        raise Failure(403, f"type: {_ERASES}", "type")
                    raise BadEvent("type", _ERASES)
                good.append(entry(event))
                accepted.append(event)
                results.append(_ACCEPTED)
            except BadEvent as error:
                if error.kind == "not_json" and (single or not _is_json(raw)):
                    raise Failure(400, str(error)) from error
                # Not the errors themselves: their tracebacks hold so many objects that a garbage collection stops everything.
                bad.append((error.kind, str(error), raw))
                results.append(EventResult(status="rejected", field=error.field or None, error=str(error)))
            if time.perf_counter() - resumed > TURN:
                await asyncio.sleep(0)
                resumed = time.perf_counter()
        return good, accepted, bad, results

    async def put(self, entries: _Items | _Users, request: Request) -> Response:
        """Add or replace an item or user."""
        name = self._name(entries.noun, request)
        document: Any = decoded(entries.document, await self._handler.body(request), self._limits)
        named = getattr(document, entries.noun)
        if named not in (None, name):
            raise Failure(422, f"{entries.noun}: {named!r} is not the {name!r} of the path; remove the field", entries.noun)
        return await self._change(entries.event(name, document))

    async def delete(self, entries: _Items | _Users, request: Request) -> Response:
        """Delete an item or the attributes of a user."""
        return await self._change(entries.event(self._name(entries.noun, request), None))

    async def get(self, entries: _Items | _Users, request: Request) -> Response:
        """Attributes of an item or user."""
        name = self._name(entries.noun, request)
        engine = self._runtime.engine
        attributes = await self._handler.answer(lambda: engine.call(lambda: entries.catalog.get(hash_id(name))))
        if attributes is None:
            raise Failure(404, f"{entries.noun}: there is no {name!r}", "id")
        return json({entries.noun: name, "attributes": attributes})

    async def forget(self, request: Request) -> Response:
        """Delete all data of a user. The body is ignored, but must be declared as JSON like any other."""
        user = self._name("user", request)
        await self._handler.body(request)
        self._runtime.pipeline.pending.forget(user)
        return await self._change(Forget(user=user))

    def _name(self, noun: str, request: Request) -> str:
        """Id in the path of a request."""
        name = path_id(request)
        try:
            self._limits.check_ids(**{noun: name})
        except BadEvent as error:
            raise Failure(422, str(error), noun) from error
        return name

    async def _elements(self, body: bytes) -> Iterator[bytes]:
        limit = self._runtime.config.server.max_events
        try:
            return await elements(body, limit)
        except NotAList as error:
            raise Failure(400, f"body: is not JSON ({error}); send one event or a list of events in UTF-8") from error
        except TooMany as error:
            raise Failure(413, f"body: more than max_events = {limit} events; send them in parts") from error

    def _checked(self, data: bytes, now: float) -> Event:
        self._limits.check_values(data)
        event = decode(data)
        if isinstance(event, Tick):
            raise BadEvent("type", "'tick' is reserved for the service; remove the event")
        self._validator.check(event, now, len(data))
        missing: dict[str, Any] = {} if event.timestamp else {"timestamp": now}
        if self._queued and isinstance(event, Interaction) and not event.id:
            # A retry may append it twice; the id lets the trainer drop the duplicate.
            missing["id"] = uuid.uuid4().hex
        return msgspec.structs.replace(event, **missing) if missing else event

    def _post(self, entries: Sequence[Entry]) -> None:
        try:
            self._ingest.post(entries)
        except LogBusy as error:
            raise Failure(503, f"{error.strerror}; nothing of this request was kept", retry=True) from error

    async def _append(self, entries: Sequence[Entry]) -> Offsets:
        try:
            return await self._ingest.append(entries)
        except LogFull as error:
            _log.error("the log is full: %s", error)
            if self._runtime.config.stream.retain is not None:
                problem = "the log is full, and what it holds is still needed"
                raise Failure(503, f"{problem}; send the request again later, nothing of it was kept", retry=True) from error
            raise Failure(507, f"{error.filename}: {error.strerror}; nothing of this request was kept") from error
        except RecordTooLarge as error:
            raise Failure(413, f"{error.strerror}; nothing of this request was kept") from error
        except PartlyRefused as error:
            raise Failure(413, str(error.strerror)) from error
        except InDoubt as error:
            raise Failure(503, str(error.strerror), retry=True) from error
        except OSError as error:
            _log.error("the log cannot be written: %s", error)
            raise Failure(503, f"{error.strerror}; nothing of this request was kept", retry=True) from error

    async def _change(self, event: Event) -> Response:
        """Append an event, and answer when it is learned, or after `VISIBLE_SECONDS`."""
        try:
            change = entry(self._checked(encode(event), time.time()))
        except BadEvent as error:
            raise Failure(422, str(error), error.field or None) from error
        end = await self._append([change])
        deadline, pause = time.monotonic() + VISIBLE_SECONDS, 0.001
        while not await self._handler.answer(lambda: self._runtime.engine.call(lambda: self._has_learned(end))):
            if time.monotonic() > deadline:
                return json(Written(visible=False), 202)
            await asyncio.sleep(pause)
            pause = min(2 * pause, 0.05)
        return json(Written(visible=True))

    def _has_learned(self, end: Offsets) -> bool:
        return all(self._runtime.updater.next.get(partition, 0) >= offset for partition, offset in end.items())

    def _keep_letters(self, bad: Sequence[_Letter]) -> None:
        for kind, reason, data in bad:
            self._runtime.dead.put(kind, reason, data, source="http")


def _is_json(data: bytes) -> bool:
    try:
        _SYNTAX.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True
