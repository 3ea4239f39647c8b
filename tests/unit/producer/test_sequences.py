"""Sequence numbers against a model of the broker's memory: whatever is lost, nothing is stored twice or out of order."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.producer.sequences import (
    MAX_EPOCH,
    MAX_SEQUENCE,
    PartitionSequences,
    ProducerIdentity,
    after,
)

OUT_OF_ORDER, INVALID_EPOCH = 45, 47


@dataclass(eq=False)
class Batch:
    """As much of a ProducerBatch as sequence numbers need."""

    name: tuple[int, ...]
    count: int
    producer_id: int = -1
    epoch: int = -1
    base_sequence: int = -1
    on_wire: bool = False
    lost: bool = False


@dataclass
class ModelBroker:
    """What Kafka's ProducerAppendInfo checks, for one producer id and partition. `log` holds the names of what was stored."""

    epoch: int = -1
    remembered: deque[tuple[int, int]] = field(default_factory=lambda: deque(maxlen=5))
    log: list[tuple[int, ...]] = field(default_factory=list)

    def append(self, name: tuple[int, ...], epoch: int, first: int, count: int) -> int:
        last = after(first, count - 1)
        if self.epoch >= 0:
            if epoch < self.epoch:
                return INVALID_EPOCH
            if epoch > self.epoch:
                if first != 0:
                    return OUT_OF_ORDER
            elif (first, last) in self.remembered:
                return 0
            elif first != after(self.remembered[-1][1], 1):
                return OUT_OF_ORDER
        if epoch != self.epoch:
            self.remembered.clear()
        self.epoch = epoch
        self.remembered.append((first, last))
        self.log.append(name)
        return 0


class Driver:
    """One partition's sender over one connection, as penstock.producer.sender does it, with every event chosen by the test."""

    def __init__(self) -> None:
        self.broker = ModelBroker()
        self.identity = ProducerIdentity(7, 0)
        self.sequences = PartitionSequences()
        self.queue: list[Batch] = []
        self.wire: deque[tuple[Batch, int, int]] = deque()
        self.made = 0
        self.names: set[tuple[int, ...]] = set()
        self.stored: list[tuple[int, ...]] = []
        self.given_up: set[tuple[int, ...]] = set()

    def add(self, count: int) -> None:
        self.queue.append(Batch((self.made,), count))
        self.names.add((self.made,))
        self.made += 1

    def send(self) -> bool:
        if not self.queue:
            return False
        head = self.queue[0]
        allowed = (
            self.sequences.may_send_again(head) if head.base_sequence >= 0 else self.sequences.may_send_new()
        )
        if not allowed:
            return False
        self.queue.pop(0)
        self.sequences.number(head, self.identity)
        assert head.base_sequence >= 0
        head.on_wire = True
        self.wire.append((head, head.epoch, head.base_sequence))
        return True

    def answer(self, how: str = "answer") -> None:
        """The broker works on the oldest request and its answer arrives; or it refuses it, for now, for good, or as too large."""
        if not self.wire:
            return
        batch, epoch, sequence = self.wire.popleft()
        batch.on_wire = False
        if how == "reject" or (how == "split" and (batch.count == 1 or batch.name in self.given_up)):
            self.given_up.add(batch.name)
            self.sequences.given_up(batch, surely_not_stored=True)
        elif how == "split" and batch.name not in self.broker.log:  # what fitted once fits again
            parts = [Batch((*batch.name, n), count) for n, count in enumerate((1, batch.count - 1))]
            self.sequences.split(batch, parts)
            self.names.remove(batch.name)
            for part in parts:
                self.names.add(part.name)
                self._again(part)
        elif how == "refuse":
            self._again(batch)
        elif self.broker.append(batch.name, epoch, sequence, batch.count) == 0:
            self.sequences.stored(batch)
            if batch.name not in self.given_up:
                self.stored.append(batch.name)
        else:
            self.sequences.out_of_order(batch)
            self._again(batch)

    def cut(self, carried_out: int) -> None:
        """The connection ends: the broker has worked on some of the requests, and no answer arrives."""
        lost = list(self.wire)
        self.wire.clear()
        for batch, epoch, sequence in lost[:carried_out]:
            self.broker.append(batch.name, epoch, sequence, batch.count)
        for batch, _, _ in lost:
            batch.on_wire = False
            self._again(batch)

    def give_up(self) -> None:
        """The oldest batch's time is over, wherever it is."""
        everything = sorted(
            [b for b, _, _ in self.wire if b.name not in self.given_up] + self.queue, key=lambda b: b.name
        )
        if everything:
            batch = everything[0]
            self.given_up.add(batch.name)
            if batch in self.queue:
                self.queue.remove(batch)
            self.sequences.given_up(batch, surely_not_stored=False)

    def introduce(self) -> None:
        """Have the broker know the producer."""
        self.add(1)
        self.send()
        self.answer()

    def _again(self, batch: Batch) -> None:
        if batch.name not in self.given_up:
            self.queue.append(batch)
            self.queue.sort(key=lambda b: b.name)

    def settle(self) -> None:
        """No more faults: everything comes to an end, in a bounded number of steps."""
        for _ in range(100 * (len(self.names) + 1)):
            if not self.queue and not self.wire:
                return
            if not self.send():
                self.answer()
        raise AssertionError(f"stuck with {self.queue} queued and {list(self.wire)} on the wire")


OPERATIONS = st.one_of(
    st.tuples(st.just("add"), st.integers(1, 9)),
    st.tuples(st.just("send"), st.just(0)),
    st.tuples(st.just("send"), st.just(0)),
    st.tuples(st.just("answer"), st.just(0)),
    st.tuples(st.sampled_from(["refuse", "refuse", "reject", "split"]), st.just(0)),
    st.tuples(st.just("cut"), st.integers(0, 5)),
    st.tuples(st.just("give_up"), st.just(0)),
)


@settings(max_examples=1_000, deadline=None)
@given(st.lists(OPERATIONS, max_size=60))
def test_nothing_is_stored_twice_or_out_of_order(operations: list[tuple[str, int]]) -> None:
    driver = Driver()
    for what, number in operations:
        if what == "add":
            driver.add(number)
        elif what == "send":
            driver.send()
        elif what in ("answer", "refuse", "reject", "split"):
            driver.answer(what)
        elif what == "cut":
            driver.cut(number)
        else:
            driver.give_up()
    driver.settle()
    log = driver.broker.log
    assert log == sorted(set(log)), "stored twice, or out of order"
    assert set(driver.stored) == driver.names - driver.given_up, "not all that was kept was acknowledged"
    assert set(driver.stored) <= set(log), "acknowledged and not stored"
    assert set(log) <= set(driver.stored) | driver.given_up


def test_a_lost_answer_is_tried_again_under_the_same_number() -> None:
    driver = Driver()
    driver.introduce()
    driver.add(3)
    driver.add(2)
    driver.send()
    driver.send()
    driver.cut(carried_out=2)
    assert [b.base_sequence for b in driver.queue] == [1, 4]
    assert driver.send()
    assert not driver.send(), "the second waits until the first is settled"
    driver.settle()
    assert driver.broker.log == [(0,), (1,), (2,)]
    assert driver.sequences.epoch == 0


def test_a_hole_is_closed_by_the_next_epoch() -> None:
    driver = Driver()
    driver.introduce()
    for _ in range(3):
        driver.add(1)
        driver.send()
    driver.give_up()  # the first, while it is on the wire
    driver.cut(carried_out=0)
    driver.settle()
    assert driver.broker.log == [(0,), (2,), (3,)]
    assert driver.sequences.epoch == 1
    assert driver.sequences.next_sequence == 2


def test_a_batch_that_is_split_leaves_no_hole() -> None:
    """In a transaction the epoch is the coordinator's: it could not be mended by another one."""
    driver = Driver()
    driver.introduce()
    for count in (4, 2):
        driver.add(count)
        driver.send()
    driver.answer("split")
    assert [(b.name, b.base_sequence) for b in driver.queue] == [((1, 0), 1), ((1, 1), 2)]
    driver.answer()  # what was sent behind it is out of order
    driver.settle()
    assert driver.broker.log == [(0,), (1, 0), (1, 1), (2,)]
    assert (driver.sequences.epoch, driver.sequences.next_sequence) == (0, 7)


def test_at_most_five_are_in_flight() -> None:
    driver = Driver()
    driver.introduce()
    for _ in range(7):
        driver.add(1)
    assert [driver.send() for _ in range(7)] == [True] * 5 + [False] * 2


def test_the_first_batch_of_a_producer_goes_alone() -> None:
    driver = Driver()
    driver.add(1)
    driver.add(1)
    assert [driver.send(), driver.send()] == [True, False]
    driver.answer("refuse")
    driver.settle()
    assert driver.broker.log == [(0,), (1,)]


def test_sequence_numbers_start_again_at_zero() -> None:
    assert after(MAX_SEQUENCE, 1) == 0
    assert after(MAX_SEQUENCE - 1, 4) == 2
    assert after(5, 3) == 8


def test_without_epochs_left_another_producer_id_is_asked_for() -> None:
    identity, sequences = ProducerIdentity(7, 0), PartitionSequences()
    first, second = Batch((0,), 1), Batch((1,), 1)
    sequences.number(first, identity)
    sequences.epoch = first.epoch = MAX_EPOCH
    sequences.given_up(first, surely_not_stored=True)
    sequences.number(second, identity)
    assert second.base_sequence == -1
    assert not identity.known
    identity.producer_id, identity.epoch = 8, 0
    sequences.number(second, identity)
    assert (second.producer_id, second.epoch, second.base_sequence) == (8, 0, 0)


def transactional(epoch: int = 3) -> tuple[PartitionSequences, ProducerIdentity]:
    return PartitionSequences(), ProducerIdentity(7, epoch, "x")


def numbered(sequences: PartitionSequences, identity: ProducerIdentity, count: int = 1) -> Batch:
    batch = Batch((0,), count)
    sequences.number(batch, identity)
    return batch


def test_a_transactional_producers_epoch_is_taken_over_with_the_next_batch() -> None:
    sequences, identity = transactional()
    first = numbered(sequences, identity, 4)
    assert (first.producer_id, first.epoch, first.base_sequence) == (7, 3, 0)
    sequences.stored(first)
    again = numbered(sequences, identity)
    assert (again.epoch, again.base_sequence) == (3, 4), "the same epoch: by transaction.version 1 it goes on"
    sequences.stored(again)
    identity.epoch = 4
    assert sequences.may_send_new()
    new = numbered(sequences, identity)
    assert (new.epoch, new.base_sequence) == (4, 0)
    assert not sequences.may_send_new(), "the first of an epoch goes alone"
    sequences.stored(new)
    identity.producer_id, identity.epoch = 8, 0
    other = numbered(sequences, identity)
    assert (other.producer_id, other.epoch, other.base_sequence) == (8, 0, 0)


def test_a_transactional_producer_never_raises_its_epoch_by_itself() -> None:
    """The coordinator's markers would not end what is written under an epoch that it does not know."""
    sequences, identity = transactional()
    sequences.stored(numbered(sequences, identity))
    lost = numbered(sequences, identity)
    sequences.given_up(lost, surely_not_stored=True)
    assert numbered(sequences, identity).base_sequence == -1
    identity.epoch += 1
    assert numbered(sequences, identity).base_sequence == 0


def test_who_comes_after_another_may_have_overtaken_it() -> None:
    sequences, identity = transactional()
    sequences.stored(numbered(sequences, identity))
    first, second = numbered(sequences, identity), numbered(sequences, identity)
    assert not sequences.comes_after_another(first) and sequences.comes_after_another(second)
    sequences.stored(first)
    assert not sequences.comes_after_another(second)
    assert not sequences.comes_after_another(first)
