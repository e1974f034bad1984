"""`check_carried` accepts a correct learner and catches faulty ones."""

from __future__ import annotations

import numpy as np
import pytest

from learners.contract.carried import check_carried
from learners.contract.checks import checks_for
from tests.learners.honest import GoodRanker


class CarryingRanker(GoodRanker):
    """Carries the number of rows it has seen, as eight bytes, and adds up the numbers that come back."""

    def carry(self, requests):
        return [np.int64(self.seen["times"][0]).tobytes()] * requests.user.size

    def learn(self, feedback):
        carried = feedback.carried.get(self.name, [b""] * feedback.user.size)
        now = int(self.seen["times"][0])
        numbers = [int.from_bytes(one, "little") if len(one) == 8 else now for one in carried]
        super().learn(feedback)
        self.seen["times"][0] += sum(number if number <= now else now for number in numbers)


class ServingCounter(CarryingRanker):
    """Counts the requests."""

    def carry(self, requests):
        self.seen["times"][0] += requests.user.size


class Scribbler(CarryingRanker):
    """Writes to its input."""

    def carry(self, requests):
        requests.history[:] = 0
        return super().carry(requests)


class Publisher(CarryingRanker):
    """Writes its bytes into the requests."""

    def carry(self, requests):
        requests.carried["mine"] = super().carry(requests)
        return super().carry(requests)


class Forgetful(CarryingRanker):
    """Returns one bytes object too few."""

    def carry(self, requests):
        return super().carry(requests)[1:]


class Packer(CarryingRanker):
    """Returns an array."""

    def carry(self, requests):
        return np.array([self.seen["times"][0]] * requests.user.size)


class Gambler(CarryingRanker):
    """Returns random bytes."""

    def carry(self, requests):
        return [np.random.default_rng().bytes(8) for _ in range(requests.user.size)]


class Misreader(CarryingRanker):
    """Writes another number than the one it expects to read."""

    def carry(self, requests):
        return [np.int64(self.seen["times"][0] // 2).tobytes()] * requests.user.size


class Trusting(CarryingRanker):
    """Reads the bytes without a check."""

    def learn(self, feedback):
        carried = feedback.carried.get(self.name)
        if carried:
            np.concatenate([np.frombuffer(one, np.int64) for one in carried])
        super().learn(feedback)


class Believer(CarryingRanker):
    """Adds whatever number it reads to its scores."""

    def score(self, batch, delta=None):
        super().score(batch)
        carried = batch.carried.get(self.name)
        if carried:
            number = np.array([np.frombuffer(one, np.float32)[0] if len(one) == 4 * 2 else 0 for one in carried])
            batch.score += number[batch.request] * np.float32(1e38)


def test_correct_learners_pass():
    check_carried(GoodRanker)
    check_carried(CarryingRanker)
    assert check_carried in checks_for(CarryingRanker)


@pytest.mark.parametrize(
    ("cls", "complaint"),
    [
        (ServingCounter, "carry changed the state"),
        (Scribbler, "carry wrote to the requests"),
        (Publisher, "carry wrote to the requests .carried"),
        (Forgetful, "bytes objects for"),
        (Packer, "return None or a list of bytes"),
        (Gambler, "other bytes for the same requests"),
        (Misreader, "differs from learning without them"),
        (Trusting, "foreign bytes"),
        (Believer, "foreign bytes"),
    ],
)
def test_faulty_learners_are_caught(cls, complaint):
    with pytest.raises(AssertionError, match=complaint):
        check_carried(cls)
