"""Arrays and JSON cross a socket unchanged, and what is no message is refused."""

import math
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edgeopt.worker.protocol import Deadline, ProtocolError, encode, receive, send

Pair = tuple[socket.socket, socket.socket]
DTYPES = st.one_of(
    arrays.boolean_dtypes(),
    arrays.integer_dtypes(endianness="?"),
    arrays.unsigned_integer_dtypes(endianness="?"),
    arrays.floating_dtypes(endianness="?", sizes=(16, 32, 64)),
    arrays.complex_number_dtypes(endianness="?", sizes=(64, 128)),
)
ARRAYS = DTYPES.flatmap(lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4)))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def exchange(pair: Pair, body: Any, sent: list[Any]) -> tuple[Any, tuple[Any, ...]]:
    thread = threading.Thread(target=send, args=(pair[0], encode(body, sent)))
    thread.start()
    received = receive(pair[1], deadline=Deadline(30))
    thread.join()
    return received


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(body=JSON, sent=st.lists(ARRAYS, max_size=3))
def test_any_body_and_arrays_arrive_as_they_were(pair: Pair, body: Any, sent: list[Any]) -> None:
    answer, received = exchange(pair, body, sent)
    assert answer == body
    assert [(a.dtype, a.shape, a.tobytes()) for a in received] == [(a.dtype, a.shape, a.tobytes()) for a in sent]


def test_strided_and_fortran_arrays_arrive_with_their_values(pair: Pair) -> None:
    base = np.arange(24.0).reshape(2, 3, 4)
    sent = [base[:, ::2, ::-1], np.asfortranarray(base), np.broadcast_to(np.float32(2), (3, 3))]
    for one, other in zip(sent, exchange(pair, None, sent)[1], strict=True):
        np.testing.assert_array_equal(one, other)


def test_not_a_number_and_infinities_arrive(pair: Pair) -> None:
    sent = [np.array([np.nan, np.inf, -np.inf, -0.0], dtype) for dtype in (np.float16, np.float32, np.float64)]
    assert [a.tobytes() for a in exchange(pair, None, sent)[1]] == [a.tobytes() for a in sent]
    assert math.isnan(exchange(pair, {"sqnr": math.nan}, [])[0]["sqnr"])


def test_a_hundred_megabytes_arrive(pair: Pair) -> None:
    sent = np.random.default_rng(0).integers(0, 256, 100_000_000, dtype=np.uint8)
    assert np.array_equal(exchange(pair, None, [sent])[1][0], sent)


@pytest.mark.parametrize("value", [np.array(["text"]), np.array([object()]), np.array(["2024-01-01"], "M8[D]"), [1, 2], None])
def test_what_is_no_array_of_numbers_is_refused_before_anything_is_sent(value: Any) -> None:
    with pytest.raises(TypeError, match="only arrays of numbers"):
        encode(None, [value])


def test_a_body_that_json_cannot_hold_is_refused_before_anything_is_sent() -> None:
    with pytest.raises(TypeError):
        encode({"array": np.zeros(2)})


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.binary(min_size=1, max_size=100))
def test_noise_is_refused_and_never_taken_for_a_message(noise: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(noise)
        ours.shutdown(socket.SHUT_WR)
        with pytest.raises((ProtocolError, EOFError)):
            receive(theirs, deadline=Deadline(10))


@pytest.mark.parametrize(
    "header", [b"[]", b"{}", b"\xff", b'{"body": 1, "arrays": [["|O", [1]]]}', b'{"body": 1, "arrays": [["<f4", [-1]]]}']
)
def test_a_header_that_is_none_is_refused(pair: Pair, header: bytes) -> None:
    pair[0].sendall(struct.pack("<Q", len(header)) + header)
    with pytest.raises(ProtocolError):
        receive(pair[1], deadline=Deadline(10))


def test_a_message_that_stops_half_way_times_out(pair: Pair) -> None:
    pair[0].sendall(b"".join(encode({"x": 1}, [np.zeros(10)]))[:-5])
    with pytest.raises(TimeoutError):
        receive(pair[1], deadline=Deadline(0.2))


def test_sending_to_one_who_does_not_listen_times_out(pair: Pair) -> None:
    with pytest.raises(TimeoutError):
        send(pair[0], encode(None, [np.zeros(10_000_000)]), deadline=Deadline(0.2))
