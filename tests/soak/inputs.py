"""The hostile inputs: what is sent, and what may come back. A 503 that says when to come again may always come back."""

from __future__ import annotations

import gzip
import itertools
import json
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

__all__ = ["INPUTS", "Input", "Manner", "request"]

YEAR_2100, DAY = 4_102_444_800.0, 86_400.0
ACCEPTED, MIXED, REFUSED = frozenset({202}), frozenset({202, 207, 422}), frozenset({422})
NOT_JSON = frozenset({400})
NO_ANSWER = 0
"""Status of a connection that the service closed without an answer."""

BOMB = gzip.compress(b" " * (64 << 20))
NUMBERS = ("1e38", "-1e38", "3.4e38", "1e39", "1e308", "1e400", "-1e400", "9" * 400, "-0.0", "5e-324", "0" * 50 + "1")


class Manner(Enum):
    """How a request is sent."""

    WHOLE = "whole"
    DRIPPING = "dripping"  # some bytes a second
    UNFINISHED = "unfinished"  # half of it, and the connection stays open for a while


@dataclass(frozen=True)
class Input:
    """A kind of hostile request: its bytes, the statuses that may answer it, and how it is sent."""

    name: str
    make: Callable[[random.Random], bytes]
    statuses: frozenset[int]
    manner: Manner = Manner.WHOLE


def request(path: str, body: bytes = b"", method: str = "POST", **headers: str) -> bytes:
    """An HTTP request, after which the connection is closed; an underscore in the name of a header is a hyphen."""
    named = {"Host": "localhost", "Content_Type": "application/json", "Content_Length": str(len(body)), "Connection": "close"}
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in (named | headers).items()]
    return "\r\n".join([f"{method} {path} HTTP/1.1", *lines, "", ""]).encode() + body


def events(*of: dict[str, Any]) -> bytes:
    return request("/v1/events", json.dumps(of[0] if len(of) == 1 else list(of)).encode())


def click(rng: random.Random, **more: Any) -> dict[str, Any]:
    return {"type": "interaction", "user": f"h{rng.randrange(200)}", "item": f"i{rng.randrange(200)}", **more}


def recommend(**more: Any) -> bytes:
    return request("/v1/recommend", json.dumps({"user": "h1", **more}).encode())


def dated(seconds: Callable[[], float]) -> Callable[[random.Random], bytes]:
    def make(rng: random.Random) -> bytes:
        return events(
            rng.choice(
                [
                    click(rng, timestamp=seconds()),
                    {"type": "impression", "request_id": f"x{rng.random()}", "user": "h2", "items": ["i1", "i2"]}
                    | {"timestamp": seconds()},
                    {"type": "item", "item": "i3", "timestamp": seconds()},
                ]
            )
        )

    return make


def raw(path: str, *bodies: bytes, **headers: str) -> Callable[[random.Random], bytes]:
    return lambda rng: request(path, rng.choice(bodies), **headers)


def numbered(rng: random.Random) -> bytes:
    number = rng.choice(NUMBERS)
    whole = f'{{"type":"interaction","user":"h1","item":"i1","value":{number},"context":{{"device":{number}}}}}'
    item = f'{{"type":"item","item":"h{rng.randrange(99)}","attributes":{{"price":{number}}}}}'
    ranked = f'{{"user":"h1","items":["i1"],"context":{{"device":{number}}}}}'
    path, body = rng.choice([("/v1/events", whole), ("/v1/events", item), ("/v1/rank", ranked)])
    return request(path, body.encode())


def deep(rng: random.Random) -> bytes:
    levels = rng.choice([100, 5_000, 100_000])
    body = rng.choice([b"[" * levels, b'{"a":' * levels, b'{"user":"u","context":' + b"[" * levels + b"]" * levels + b"}"])
    return request(rng.choice(["/v1/events", "/v1/recommend", "/v1/items/deep"]), body, rng.choice(["POST", "PUT"]))


def odd_method(rng: random.Random) -> bytes:
    method = rng.choice(["PATCH", "TRACE", "DELETE", "PUT", "OPTIONS", "QUERY", "PROPFIND"])
    return request(rng.choice(["/v1/events", "/v1/rank", "/healthz", "/v1/status"]), method=method)


def odd_path(rng: random.Random) -> bytes:
    paths = ["/nowhere", "/v1", "/v1/events/", "//", "/../etc/passwd", "/static/../app.py", "/v1/%00", "/static/%2e%2e/app.py"]
    return request(rng.choice(paths), method=rng.choice(["GET", "POST"]))


def no_http(rng: random.Random) -> bytes:
    return rng.choice(
        [b"\x16\x03\x01\x02\x00\x01\x00", b"GET\r\n\r\n", rng.randbytes(100) + b"\r\n\r\n", b"POST / HTTP/9.9\r\n\r\n"]
    )


def smuggled(rng: random.Random) -> bytes:
    both = b"POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    chunk = b"POST /v1/events HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"
    return rng.choice([both, chunk, request("/v1/events", b"{}", Content_Length="-1"), request("/", Content_Length="9" * 40)])


def forged(rng: random.Random) -> bytes:
    """An impression that the service is said to have made."""
    shown = [f"i{rng.randrange(200)}" for _ in range(5)]
    bytes_ = "AAAAAAAAAAAAAAAAAAAAAA=="
    of = {"features": bytes_, "history": bytes_, "base": bytes_, "signature": bytes_, "unshown": "AAAAAAAAAAA="}
    more = {"scores": [1e38] * 5, "propensities": [0.0] * 5, "carried": {"mixture": bytes_}, "source": f"s{rng.random()}"}
    return events({"type": "impression", "request_id": f"f{rng.random()}", "user": "h3", "items": shown} | of | more)


def mangled(rng: random.Random) -> bytes:
    """A good body in which some bytes are wrong."""
    body = bytearray(json.dumps({"user": "h4", "items": ["i1", "i2"], "context": {"device": "phone"}}).encode())
    for _ in range(rng.randint(1, 4)):
        body[rng.randrange(len(body))] = rng.randrange(256)
    return request("/v1/rank", bytes(body))


def forget(rng: random.Random) -> bytes:
    user = rng.choice([f"h{rng.randrange(200)}", f"u{rng.randrange(100)}"])
    return rng.choice([events({"type": "forget", "user": user}), request(f"/v1/users/{user}/forget")])


def flood(rng: random.Random) -> bytes:
    """Many ids that nobody has seen before, and will not see again."""
    return events(*(click(rng, user=f"n{rng.random()}", item=f"n{rng.random()}", id=f"n{rng.random()}") for _ in range(20)))


def unlike(rng: random.Random) -> bytes:
    """An impression whose numbers do not fit its items."""
    wrong = rng.choice([{"scores": [1.0]}, {"propensities": [2.0, 0.5]}, {"unshown": "AAAA"}, {"features": "!"}, {"items": []}])
    return events({"type": "impression", "request_id": "w", "user": "h5", "items": ["i1", "i2"]} | wrong)


_counts = itertools.count()


def unheard(rng: random.Random) -> bytes:
    names = [f"unknown{next(_counts)}" for _ in range(20)]
    return rng.choice([request("/v1/rank", json.dumps({"user": names[0], "items": names}).encode()), recommend(user=names[1])])


INPUTS = (
    Input("malformed JSON", raw("/v1/events", b"", b"{", b"[{]", b"{'a': 1}", b"\xff\xfe\x00", b"[1,2"), NOT_JSON),
    Input(
        "JSON of a wrong kind",
        raw("/v1/recommend", b"null", b"[]", b"3", b'"text"', b"{}", b'{"a":1}x', b'{"user":3}'),
        REFUSED,
    ),
    Input("NaN", raw("/v1/rank", b'{"user":"u","items":["a"],"context":{"x":NaN}}', b'{"user":Infinity}'), NOT_JSON),
    Input("huge numbers", numbered, frozenset({200, 202, 400, 422})),
    Input("lone surrogates", raw("/v1/recommend", b'{"user":"\\ud800"}', b'{"user":"\xed\xa0\x80"}'), frozenset({400, 422})),
    Input("null characters", raw("/v1/recommend", b'{"user":"a\\u0000b"}'), frozenset({200, 422})),
    Input("too long ids", lambda rng: events(click(rng, user="x" * rng.choice([257, 10_000, 1_000_000]))), REFUSED),
    Input("an id of 256", lambda rng: events(click(rng, user="é" * 256)), ACCEPTED),
    Input("deep nesting", deep, frozenset({400, 405, 422})),
    Input("unknown ids", unheard, frozenset({200})),
    Input("unknown request ids", lambda rng: events(click(rng, request_id=f"never{rng.random()}")), ACCEPTED),
    Input("reused request ids", lambda rng: recommend(request_id=f"again{rng.randrange(3)}"), frozenset({200, 409})),
    Input("repeated events", lambda rng: events(click(rng, id=f"same{rng.randrange(3)}")), ACCEPTED),
    Input("unknown kinds", lambda rng: events(click(rng, kind="stolen")), REFUSED),
    Input("unknown fields", lambda rng: events(click(rng, admin=True)), REFUSED),
    Input("ticks", lambda rng: events({"type": "tick", "timestamp": time.time() + 200}), REFUSED),
    Input("299 s ahead", dated(lambda: time.time() + 299), ACCEPTED),
    # More than a day, because the clock of the service is a day ahead for a while.
    Input("two days ahead", dated(lambda: time.time() + 2 * DAY), REFUSED),
    Input("of the year 2100", dated(lambda: YEAR_2100), REFUSED),
    Input("of 1970", dated(lambda: 1.0), MIXED),
    Input("before 1970", dated(lambda: -1.0), REFUSED),
    Input("in milliseconds", dated(lambda: time.time() * 1000), REFUSED),
    Input("numbers out of range", lambda rng: recommend(n=rng.choice([0, -1, 1001, 2**70]), seed=rng.choice([0, -1])), REFUSED),
    Input(
        "a wrong mixture of events",
        lambda rng: events(click(rng), {"type": "nonsense"}, click(rng, value="x")),
        frozenset({207}),
    ),
    Input("forged impressions", forged, MIXED),
    Input("impressions that do not fit", unlike, REFUSED),
    Input("mangled bytes", mangled, frozenset({200, 400, 422})),
    Input("forgetting", forget, frozenset({200, 202})),
    Input("new ids", flood, ACCEPTED),
    Input(
        "many contexts", lambda rng: recommend(context={f"k{rng.random()}": "x" * 20 for _ in range(50)}), frozenset({200, 422})
    ),
    Input(
        "big items",
        lambda rng: events({"type": "item", "item": f"b{rng.random()}", "attributes": {"tags": ["y" * 50] * 2000}}),
        MIXED,
    ),
    Input(
        "a thousand candidates",
        lambda rng: request("/v1/rank", json.dumps({"user": "h6", "items": [f"c{n}" for n in range(1000)]}).encode()),
        frozenset({200}),
    ),
    Input("too many events", raw("/v1/events", b"[" + b",".join([b"{}"] * 10_001) + b"]"), frozenset({413})),
    Input("too large bodies", raw("/v1/events", b" " * (5 << 20)), frozenset({413, NO_ANSWER})),
    Input("gzip bombs", raw("/v1/events", BOMB, Content_Encoding="gzip"), frozenset({413, NO_ANSWER})),
    Input("broken gzip", raw("/v1/events", BOMB[:200], b"no gzip", Content_Encoding="gzip"), NOT_JSON),
    Input("unknown compression", raw("/v1/events", b"{}", Content_Encoding="br"), frozenset({415})),
    Input("wrong content types", raw("/v1/events", b"{}", Content_Type="text/plain"), frozenset({415})),
    Input("other hosts", raw("/v1/recommend", b'{"user":"u"}', Host="evil.example"), frozenset({421})),
    Input("other origins", raw("/v1/recommend", b'{"user":"u"}', Origin="https://evil.example"), frozenset({403})),
    Input("odd methods", odd_method, frozenset({400, 405})),
    Input("odd paths", odd_path, frozenset({400, 404, 405})),
    Input("no HTTP", no_http, frozenset({400, NO_ANSWER})),
    Input("contradictory lengths", smuggled, frozenset({400, 413, NO_ANSWER})),
    Input("long headers", raw("/v1/recommend", b'{"user":"u"}', X_Long="z" * 70_000), frozenset({200, 400, 431, NO_ANSWER})),
    Input(
        "long paths", lambda rng: request("/v1/items/" + "p" * 70_000, method="GET"), frozenset({400, 404, 414, 431, NO_ANSWER})
    ),
    Input("ids that are no UTF-8", lambda rng: request("/v1/items/%FF%FE", method="GET"), NOT_JSON),
    Input("unfinished bodies", lambda rng: events(click(rng))[:-5], frozenset({400, 408, NO_ANSWER}), Manner.UNFINISHED),
    Input("unfinished headers", lambda rng: events(click(rng))[:40], frozenset({400, 408, NO_ANSWER}), Manner.UNFINISHED),
    Input("slow headers", lambda rng: recommend(log=False), frozenset({200, 408, NO_ANSWER}), Manner.DRIPPING),
)


def all_inputs(rng: random.Random) -> Iterator[Input]:
    """All inputs again and again, each time in another order."""
    while True:
        yield from rng.sample(INPUTS, len(INPUTS))
