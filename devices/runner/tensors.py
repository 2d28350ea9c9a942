"""Tensors as raw little-endian bytes, in and out of files."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import Any, BinaryIO, Sequence

from .failures import Failure
from .job import TensorFile


@dataclass(frozen=True)
class Tensor:
    """``data`` is raw and little-endian; ``not_finite`` counts its NaN and infinite elements."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: bytes
    not_finite: int = 0


def read(files: Sequence[TensorFile]) -> list[Tensor]:
    """Raises Failure of kind bad_job where a file is missing or has fewer bytes than dtype and shape need."""
    found = []
    for file in files:
        try:
            with open(file.file, "rb") as source:
                source.seek(file.offset)
                data = source.read(file.nbytes)
                size = os.fstat(source.fileno()).st_size
        except OSError as error:
            raise Failure("bad_job", f"input {file.name} cannot be read: {error}") from error
        if len(data) != file.nbytes or size % max(file.nbytes, 1):  # a file may hold many samples, all of one size
            described = f"{file.dtype} of shape {list(file.shape)} is {file.nbytes} bytes"
            raise Failure("bad_job", f"input {file.name}: {described}, {file.file} has {size}, read from byte {file.offset} on")
        found.append(Tensor(file.name, file.dtype, file.shape, data))
    return found


class Writer:
    """One file for each output, ``0.bin``, ``1.bin``, ...: every sample's tensor behind the one before."""

    def __init__(self, folder: str) -> None:
        os.makedirs(folder, exist_ok=True)
        self._folder = folder
        self._files: dict[int, BinaryIO] = {}

    def append(self, tensors: Sequence[Tensor]) -> list[dict[str, Any]]:
        """Writes ``tensors`` and returns what an event says of each."""
        return [self._append(number, tensor) for number, tensor in enumerate(tensors)]

    def _append(self, number: int, tensor: Tensor) -> dict[str, Any]:
        if number not in self._files:
            self._files[number] = open(os.path.join(self._folder, f"{number}.bin"), "wb")  # noqa: SIM115  # until close()
        file = self._files[number]
        offset = file.tell()
        file.write(tensor.data)
        file.flush()
        return {
            "name": tensor.name,
            "file": f"{number}.bin",
            "offset": offset,
            "bytes": len(tensor.data),
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "sha256": hashlib.sha256(tensor.data).hexdigest(),
            "not_finite": tensor.not_finite,
        }

    def close(self) -> None:
        for file in self._files.values():
            file.close()
