"""The checkers of runs under faults find what they look for: each has a history that it must refuse."""

from __future__ import annotations

from tests.support.history import (
    Acknowledged,
    Commit,
    Event,
    Given,
    History,
    Place,
    Read,
    Taken,
    commits_cover_only_what_was_read,
    contiguous,
    never_goes_back,
    no_loss,
    offsets_agree,
    one_owner_each,
    only_while_owned,
    owned_by_one_at_a_time,
    resumes_at_committed,
    unseen,
    unseen_is_zero,
)

P, Q = Place("t", 0), Place("t", 1)


def given(at: int, *places: Place, reader: str = "a") -> Given:
    return Given(reader, at, frozenset(places or {P}))


def taken(at: int, *places: Place, reader: str = "a") -> Taken:
    return Taken(reader, at, frozenset(places or {P}))


def read(at: int, offset: int, place: Place = P, reader: str = "a", value: str | None = None) -> Read:
    return Read(reader, at, place, offset, f"v{place.partition}-{offset}" if value is None else value)


def commit(
    begun: int, offset: int, ended: int | None = None, error: str | None = None, reader: str = "a"
) -> Commit:
    return Commit(reader, begun, {P: offset}, ended, error)


def history(*events: Event, acknowledged: int = 0) -> History:
    by_reader: dict[str, list[Event]] = {}
    for event in events:
        by_reader.setdefault(event.reader, []).append(event)
    return History([Acknowledged(f"v0-{n}", P, n) for n in range(acknowledged)], by_reader)


def test_no_loss() -> None:
    assert no_loss(history(read(1, 0), read(2, 1, reader="b"), acknowledged=2)) == []
    (problem,) = no_loss(history(read(1, 0), acknowledged=2))
    assert "'v0-1'" in problem and "t-0 offset 1" in problem


def test_a_long_list_is_cut_short() -> None:
    problems = no_loss(history(acknowledged=100))
    assert len(problems) == 6 and problems[-1] == "... and 95 more"


def test_unseen() -> None:
    assert unseen(history(read(1, 1), acknowledged=3)) == {P: [0, 2]}
    (problem,) = unseen_is_zero(history(read(1, 1), acknowledged=3))
    assert "2 acknowledged" in problem
    assert unseen_is_zero(history(read(1, 0), acknowledged=1)) == []


def test_an_acknowledgement_without_an_offset() -> None:
    """The broker had the batch from an attempt before: its value has to be read, wherever it lies."""
    told = history(read(1, 0), read(2, 1))
    told.acknowledged += [Acknowledged("v0-1", P, None), Acknowledged("v0-0", P, None)]
    assert unseen(told) == {} and offsets_agree(told) == [] and no_loss(told) == []
    told.acknowledged.append(Acknowledged("v0-2", P, None))
    assert unseen(told) == {P: [-1]} and len(no_loss(told)) == 1


def test_offsets_agree() -> None:
    assert offsets_agree(history(read(1, 0), read(2, 0, reader="b"), acknowledged=1)) == []
    (problem,) = offsets_agree(history(read(1, 0), read(2, 0, reader="b", value="other")))
    assert "a has 'v0-0', b has 'other'" in problem
    (problem,) = offsets_agree(history(read(1, 0, value="x"), read(2, 1, value="x")))
    assert "offset 0 and, says a, at t-0 offset 1" in problem
    assert offsets_agree(history(read(1, 0, value="x"), acknowledged=1)), "a reader against the producer"


def test_contiguous() -> None:
    assert contiguous(history(given(0), read(1, 5), read(2, 0, Q), read(3, 6), read(4, 1, Q))) == []
    assert "skipped to t-0 offset 7, 6 was next" in contiguous(history(given(0), read(1, 5), read(2, 7)))[0]
    assert "went back to t-0 offset 5" in contiguous(history(given(0), read(1, 5), read(2, 5)))[0]
    again = history(given(0), read(1, 5), taken(2), given(3), read(4, 2))
    assert contiguous(again) == [], "a new ownership starts where it starts"
    assert contiguous(history(read(1, 5), read(2, 7)), readers=[]) == []


def test_only_while_owned() -> None:
    assert only_while_owned(history(given(0), read(1, 5), taken(2))) == []
    assert only_while_owned(history(given(0), taken(2), read(3, 5)))
    assert only_while_owned(history(read(3, 5)))
    assert only_while_owned(history(given(0, P, Q), taken(1, Q), read(2, 0, Q)))
    assert only_while_owned(history(given(0, P, Q), taken(1, Q), read(2, 0, P))) == []
    assert only_while_owned(history(given(0), read(1, 5, reader="b"))), "another's ownership does not count"


def test_resumes_at_committed() -> None:
    before = (given(0), read(1, 0), read(2, 1), commit(3, 2, ended=4), taken(5))
    assert resumes_at_committed(history(*before, given(6, reader="b"), read(7, 2, reader="b"))) == []
    early = resumes_at_committed(history(*before, given(6, reader="b"), read(7, 0, reader="b")))
    assert "which nobody has committed" in early[0]
    late = resumes_at_committed(history(*before, given(6, reader="b"), read(7, 3, reader="b")))
    assert "which nobody has committed" in late[0]


def test_resumes_never_below_what_is_known_to_be_stored() -> None:
    before = (given(0), read(1, 0), commit(2, 1, ended=3), read(4, 1), commit(5, 2, ended=6))
    problems = resumes_at_committed(history(*before, given(7, reader="b"), read(8, 1, reader="b")))
    assert "started t-0 at 1, although 2 was committed" in problems[0]


def test_a_commit_without_an_answer_may_or_may_not_be_stored() -> None:
    before = (given(0), read(1, 0), commit(2, 1, ended=3), read(4, 1), commit(5, 2))
    for start in (1, 2):
        assert resumes_at_committed(history(*before, given(7, reader="b"), read(8, start, reader="b"))) == []
    refused = (given(0), read(1, 0), commit(2, 1, ended=3), read(4, 1), commit(5, 2, ended=6, error="no"))
    assert resumes_at_committed(history(*refused, given(7, reader="b"), read(8, 1, reader="b"))) == []


def test_the_beginning_only_while_nothing_is_committed() -> None:
    assert resumes_at_committed(history(given(0), read(1, 0))) == []
    assert resumes_at_committed(history(given(0), read(1, 7)), {P: 7}) == []
    assert resumes_at_committed(history(given(0), read(1, 7)))


def test_commits_cover_only_what_was_read() -> None:
    assert commits_cover_only_what_was_read(history(given(0), read(1, 4), commit(2, 5))) == []
    assert commits_cover_only_what_was_read(history(given(0), read(1, 4), commit(2, 6)))


def test_never_goes_back() -> None:
    assert never_goes_back([(P, 1), (Q, 0), (P, 1), (P, 3)]) == []
    assert never_goes_back([(P, 3), (Q, 9), (P, 1)]) == ["t-0: 1 was stored after 3"]


def test_one_owner_each() -> None:
    assert one_owner_each({"a": [P], "b": [Q], "c": []}, [P, Q]) == []
    assert one_owner_each({"a": [P]}, [P, Q]) == ["t-1 belongs to nobody"]
    assert one_owner_each({"a": [P], "b": [P, Q]}, [P, Q]) == ["t-0 belongs to a, b"]
    assert one_owner_each({"a": [P, Q]}, [P]) == ["t-1 belongs to a, but does not exist"]


def test_owned_by_one_at_a_time() -> None:
    handed_on = (given(0), taken(5), given(6, reader="b"), taken(9, reader="b"))
    assert owned_by_one_at_a_time(history(*handed_on)) == []
    early = (given(0), taken(5), given(4, reader="b"), taken(9, reader="b"))
    assert "was given to b" in owned_by_one_at_a_time(history(*early))[0]
