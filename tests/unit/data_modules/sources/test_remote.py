"""Many reads of a store at once: merged with their neighbours, bounded in number, begun ahead, and retried."""

import errno
import os
import threading
import time
from pathlib import Path

import pytest

from data_modules.faults import SampleFault
from data_modules.sources import blobs, remote
from data_modules.sources.blobs import BlobReader, Span, merge_spans
from tests.unit.data_modules.steps_store import CONTENT, URL, Seen, open_steps


@pytest.fixture
def seen() -> Seen:
    return open_steps()


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "FIRST_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(blobs, "FIRST_PAUSE_SECONDS", 0.0)


def part(span: Span) -> bytes:
    return CONTENT[span.start : span.start + span.length]


def test_merge_spans__neighbours_within_the_gap_are_one_read() -> None:
    spans = [Span("b", 0, 10), Span("a", 50, 10), Span("a", 0, 20), Span("a", 25, 5), Span("a", 10, 4)]
    assert merge_spans(spans, 5) == [
        (Span("a", 0, 30), [Span("a", 0, 20), Span("a", 10, 4), Span("a", 25, 5)]),
        (Span("a", 50, 10), [Span("a", 50, 10)]),
        (Span("b", 0, 10), [Span("b", 0, 10)]),
    ]
    assert len(merge_spans(spans, 1000)) == 2


def test_read_many__in_the_order_asked_for_with_a_bounded_number_in_flight(seen: Seen) -> None:
    spans = [Span(URL, 1000 * number, 7) for number in (5, 3, 99, 0, 42, 17, 60, 71, 8, 33)]
    reader = BlobReader(in_flight=4, max_gap=10)
    started = time.monotonic()
    assert reader.read_many(spans) == [part(one) for one in spans]
    assert time.monotonic() - started < 10 * 0.02, "one after the other takes longer"
    assert (len(seen.ranges), seen.most) == (10, 4)


def test_read_many__neighbours_are_one_request(seen: Seen) -> None:
    spans = [Span(URL, 100 * number, 60) for number in range(64)]
    assert BlobReader(max_gap=40).read_many(spans) == [part(one) for one in spans]
    assert seen.ranges == [(0, 6360)]


def test_prefetch__is_taken_by_the_read_and_not_read_again(seen: Seen) -> None:
    spans = [Span(URL, 5000 * number, 60) for number in range(8)]
    reader = BlobReader(max_gap=10)
    reader.prefetch(spans)
    reader.prefetch([Span(URL, 90_000, 5)])
    assert reader.read_many(spans[:4]) + reader.read_many(spans[4:]) == [part(one) for one in spans]
    assert len(seen.ranges) == 9
    assert reader.read_many(spans[:1]) == [part(spans[0])]
    assert len(seen.ranges) == 10, "what was taken is not kept"


def test_prefetch__what_nobody_took_is_dropped_after_two_more_calls(seen: Seen) -> None:
    reader, span = BlobReader(), Span(URL, 0, 5)
    for _ in range(3):
        reader.prefetch([span])
        span = Span(URL, span.start + 200_000, 5)
    assert reader.read_many([Span(URL, 0, 5)]) == [CONTENT[:5]]
    assert seen.ranges.count((0, 5)) == 2


@pytest.mark.usefixtures("no_pauses")
def test_read_many__an_error_is_tried_again_and_at_last_a_fault_of_its_spans_alone(seen: Seen) -> None:
    reader = BlobReader(in_flight=1, max_gap=10)
    seen.actions = ["fail", "fail", "fail"]
    assert reader.read_many([Span(URL, 0, 4)]) == [CONTENT[:4]]
    seen.actions = ["fail"] * 4
    (faulty,) = reader.read_many([Span(URL, 0, 4)])
    assert isinstance(faulty, SampleFault)
    assert (faulty.kind, faulty.detail) == ("read_failed", f"{URL}: the other side is busy")
    missing, sound = reader.read_many([Span("steps://set/none", 0, 4), Span(URL, 5000, 4)])
    assert isinstance(missing, SampleFault)
    assert sound == CONTENT[5000:5004]


@pytest.mark.usefixtures("no_pauses")
def test_read__a_hang_is_cut_off_and_leaves_room_for_others(seen: Seen) -> None:
    seen.actions = ["hang", "hang"]
    reader = BlobReader(timeout=0.05, in_flight=1)
    assert reader.read(URL, 0, 3) == CONTENT[:3]
    seen.actions = ["hang"] * 4
    with pytest.raises(SampleFault, match=r"steps://set/file: no answer within 0\.05 s"):
        reader.read(URL, 0, 3)
    assert reader.read(URL, 3, 3) == CONTENT[3:6]
    assert seen.now == 0, "a read that was abandoned is cancelled"


def test_read__a_missing_file_is_not_tried_again(seen: Seen) -> None:
    with pytest.raises(SampleFault, match="steps://set/none"):
        BlobReader().read("steps://set/none", 0, 3)
    assert len(seen.ranges) == 1


@pytest.mark.usefixtures("seen")
def test_reader__goes_on_in_a_fork() -> None:
    reader = BlobReader()
    assert reader.read(URL, 0, 3) == CONTENT[:3]
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(writing, reader.read(URL, 10, 5))
        finally:
            os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    assert os.read(reading, 100) == CONTENT[10:15]
    os.close(reading)


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO])
@pytest.mark.usefixtures("no_pauses")
def test_local_file__is_opened_anew_after_an_error_of_a_network_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    file, calls, pread = tmp_path / "a", list[int](), os.pread
    file.write_bytes(CONTENT)

    def failing(descriptor: int, length: int, start: int) -> bytes:
        calls.append(descriptor)
        if len(calls) < 3:
            raise OSError(number, os.strerror(number))
        return pread(descriptor, length, start)

    opened, really = list[str](), os.open
    monkeypatch.setattr(os, "open", lambda path, *rest: opened.append(str(path)) or really(path, *rest))
    monkeypatch.setattr(os, "pread", failing)
    assert BlobReader().read(str(file), 7, 9) == CONTENT[7:16]
    assert opened.count(str(file)) == 3


def test_local_file__another_error_is_a_fault_at_once(tmp_path: Path) -> None:
    with pytest.raises(SampleFault, match="No such file"):
        BlobReader().read(str(tmp_path / "none"), 0, 1)


def test_local_file__short_reads_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(CONTENT)
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda descriptor, length, start: pread(descriptor, min(length, 7), start))
    assert BlobReader().read(str(tmp_path / "a"), 3, 30) == CONTENT[3:33]
    assert BlobReader().read(str(tmp_path / "a"), len(CONTENT) - 5, 30) == CONTENT[-5:]


def test_network_file_system__is_read_by_several_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(CONTENT)
    together = threading.Barrier(4, timeout=20)
    pread = os.pread

    def meeting(descriptor: int, length: int, start: int) -> bytes:
        together.wait()
        return pread(descriptor, length, start)

    monkeypatch.setattr(blobs, "is_on_network", lambda _: True)
    monkeypatch.setattr(os, "pread", meeting)
    spans = [Span(str(tmp_path / "a"), 10_000 * number, 5) for number in range(4)]
    assert BlobReader(in_flight=4, max_gap=10).read_many(spans) == [part(one) for one in spans]
