"""The few functions of CUDA's runtime library that copying to a GPU and back takes, by ctypes."""

from __future__ import annotations

import ctypes
import ctypes.util
from typing import Any

from ..failures import Failure

_NAMES = ("libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0", "libcudart.so")
_TO_DEVICE, _TO_HOST = 1, 2


class Cuda:
    """Raises Failure of kind missing_runtime where there is no CUDA runtime library; RuntimeError where a call fails."""

    def __init__(self) -> None:
        self._library = _load()

    def version(self) -> str:
        number = ctypes.c_int()
        self._check(self._library.cudaRuntimeGetVersion(ctypes.byref(number)))
        return f"{number.value // 1000}.{number.value % 1000 // 10}"

    def stream(self) -> int:
        handle = ctypes.c_void_p()
        self._check(self._library.cudaStreamCreate(ctypes.byref(handle)))
        return handle.value or 0

    def allocate(self, size: int) -> int:
        """Memory on the GPU, given back when the process ends."""
        pointer = ctypes.c_void_p()
        self._check(self._library.cudaMalloc(ctypes.byref(pointer), ctypes.c_size_t(max(size, 1))))
        return pointer.value or 0

    def to_device(self, target: int, source: int, size: int, stream: int) -> None:
        self._copy(target, source, size, _TO_DEVICE, stream)

    def to_host(self, target: int, source: int, size: int, stream: int) -> None:
        self._copy(target, source, size, _TO_HOST, stream)

    def wait(self, stream: int) -> None:
        self._check(self._library.cudaStreamSynchronize(ctypes.c_void_p(stream)))

    def _copy(self, target: int, source: int, size: int, direction: int, stream: int) -> None:
        pointers = (ctypes.c_void_p(target), ctypes.c_void_p(source), ctypes.c_size_t(size))
        self._check(self._library.cudaMemcpyAsync(*pointers, ctypes.c_int(direction), ctypes.c_void_p(stream)))

    def _check(self, code: int) -> None:
        if code:
            self._library.cudaGetErrorString.restype = ctypes.c_char_p
            message = self._library.cudaGetErrorString(ctypes.c_int(code)) or b"unknown"
            raise RuntimeError(f"CUDA error {code}: {message.decode('ascii', 'replace')}")


def _load() -> Any:
    found = ctypes.util.find_library("cudart")
    for name in (*_NAMES, found):
        try:
            if name:
                return ctypes.CDLL(name)
        except OSError:
            continue
    raise Failure("missing_runtime", "there is no CUDA runtime library (libcudart) here")
