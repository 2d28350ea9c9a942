"""Messages between the main process and a child: a JSON body and arrays as raw bytes, over a stream socket.

8 bytes            length of the header, little endian
header             JSON: {"body": ..., "arrays": [[dtype, shape], ...]}
array bytes        one after the other, C order, in the dtype's own byte order
"""

import json
import math
import socket
import struct
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.generic]
_LENGTH = struct.Struct("<Q")
_MAX_HEADER = 256 * 1024 * 1024
_CHUNK = 1 << 20
_KINDS = "biufc"


class ProtocolError(Exception):
    """What came over the socket is not a message, such as text that a library printed to a number it took for its own."""


class Deadline:
    """``seconds`` from now, over several calls."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def remaining(self) -> float:
        """Seconds left, above zero. Raises TimeoutError where there are none."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left


def encode(body: Any, arrays: Sequence[Array] = ()) -> list[memoryview]:
    """The message of ``body`` (JSON data) and ``arrays`` (bool, integers, floats, complex of any width; any shape), not copied.

    Raises TypeError for other dtypes and for a body that JSON cannot hold.
    """
    for array in arrays:
        if not isinstance(array, np.ndarray | np.generic) or array.dtype.kind not in _KINDS:
            kind = getattr(array, "dtype", type(array).__name__)
            raise TypeError(f"only arrays of numbers and booleans can be sent between processes, not {kind}")
    header = json.dumps({"body": body, "arrays": [[array.dtype.str, array.shape] for array in arrays]}).encode()
    raw = [np.ascontiguousarray(array).reshape(-1).view(np.uint8).data for array in arrays]
    return [memoryview(_LENGTH.pack(len(header)) + header), *raw]


def send(connection: socket.socket, message: Sequence[memoryview], *, deadline: Deadline | None = None) -> None:
    """Sends what :func:`encode` gave. Raises TimeoutError after ``deadline``, and OSError where the peer is gone."""
    for part in message:
        rest = part
        while rest:
            connection.settimeout(deadline.remaining() if deadline else None)
            rest = rest[connection.send(rest[:_CHUNK]) :]


def receive(connection: socket.socket, *, deadline: Deadline | None = None) -> tuple[Any, tuple[Array, ...]]:
    """The next message's body and arrays (writable, their own memory).

    Raises EOFError where the peer closed, TimeoutError after ``deadline``, ProtocolError where it is not a message.
    """
    (length,) = _LENGTH.unpack(_receive_bytes(connection, _LENGTH.size, deadline).tobytes())
    if length > _MAX_HEADER:
        raise ProtocolError(f"a header of {length} bytes")
    try:
        header = json.loads(_receive_bytes(connection, length, deadline).tobytes())
        layouts = [_layout(dtype, shape) for dtype, shape in header["arrays"]]
        body = header["body"]
    except (ValueError, TypeError, KeyError) as error:
        raise ProtocolError("a header that is not one") from error
    return body, tuple(_receive_array(connection, dtype, shape, deadline) for dtype, shape in layouts)


def _layout(dtype: str, shape: list[int]) -> tuple[np.dtype[Any], tuple[int, ...]]:
    layout = np.dtype(dtype), tuple(shape)
    if layout[0].kind not in _KINDS or not all(isinstance(side, int) and side >= 0 for side in shape):
        raise ValueError(f"no array of numbers: {dtype} {shape}")
    return layout


def _receive_array(connection: socket.socket, dtype: np.dtype[Any], shape: tuple[int, ...], deadline: Deadline | None) -> Array:
    data = _receive_bytes(connection, dtype.itemsize * math.prod(shape), deadline)
    return data.view(dtype).reshape(shape)


def _receive_bytes(connection: socket.socket, size: int, deadline: Deadline | None) -> NDArray[np.uint8]:
    data = np.empty(size, np.uint8)
    view, done = data.data, 0
    while done < size:
        connection.settimeout(deadline.remaining() if deadline else None)
        count = connection.recv_into(view[done:])
        if count == 0:
            raise EOFError("the other side closed the connection")
        done += count
    return data
