"""The data of a checkpoint as files: which tensors lie in which shard, and the safetensors format, in and out.

Pure: buffers in, buffers out, and no tensor is copied. A shard is the list of buffers of its file.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from trainer.errors import ConfigError
from trainer.wire.writer import Tensor

_NUMPY_OF: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
    "U16": np.dtype(np.uint16),
    "I16": np.dtype(np.int16),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "U32": np.dtype(np.uint32),
    "I32": np.dtype(np.int32),
    "F32": np.dtype(np.float32),
    "U64": np.dtype(np.uint64),
    "I64": np.dtype(np.int64),
    "F64": np.dtype(np.float64),
    "C64": np.dtype(np.complex64),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
}
_CODE_OF = {dtype.name: code for code, dtype in _NUMPY_OF.items()}


@dataclass(frozen=True)
class ShardFile:
    """One safetensors file before it is written."""

    tensors: tuple[Tensor, ...]
    parts: tuple[memoryview, ...]
    """The file's bytes: the header, then each tensor where it lies in memory."""

    @property
    def size_bytes(self) -> int:
        """Length of the file."""
        return sum(part.nbytes for part in self.parts)


def header_of(
    tensors: Sequence[tuple[str, str, Sequence[int]]], metadata: Mapping[str, str]
) -> tuple[bytes, list[int]]:
    """The beginning of a safetensors file of (name, dtype, shape), and where in the file each of them begins.

    They lie one after the other, without a gap, as the format wants it: give them by falling item size (by_item_size).
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    at, begins = 0, []
    for name, dtype, shape in tensors:
        size_bytes = math.prod(shape) * dtype_of(dtype).itemsize
        header[name] = {"dtype": _CODE_OF[dtype], "shape": list(shape), "data_offsets": [at, at + size_bytes]}
        begins.append(at)
        at += size_bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, [8 + len(text) + begin for begin in begins]


def by_item_size(dtype: str) -> int:
    """Sorts tensors so that each is aligned in a file without gaps: the widest first."""
    return -dtype_of(dtype).itemsize


def dtype_of(name: str) -> np.dtype[Any]:
    """The dtype of a name as Tensor.dtype gives it: "float32", "bfloat16".

    Raises:
        ConfigError: a checkpoint cannot hold tensors of that type.
    """
    code = _CODE_OF.get(name)
    if code is None:
        raise ConfigError(
            f"a variable has the dtype {name}, which a checkpoint cannot hold",
            remedy=f"Use one of {', '.join(sorted(_CODE_OF))}.",
        )
    return _NUMPY_OF[code]


def divide(tensors: Sequence[Tensor], shard_size_bytes: int) -> list[list[Tensor]]:
    """Tensors in shards of at most `shard_size_bytes`, in order; one larger than that has a shard of its own.

    At least one shard, which may be empty.
    """
    own = [[tensor] for tensor in tensors if tensor.size_bytes >= shard_size_bytes]
    shared: list[list[Tensor]] = []
    filled = 0
    for tensor in tensors:
        if tensor.size_bytes >= shard_size_bytes:
            continue
        if not shared or filled + tensor.size_bytes > shard_size_bytes:
            shared.append([])
            filled = 0
        shared[-1].append(tensor)
        filled += tensor.size_bytes
    return own + shared or [[]]


def build(tensors: Sequence[Tensor], memory: memoryview, metadata: Mapping[str, str]) -> ShardFile:
    """A safetensors file of `tensors`, whose bytes lie in `memory` at their offsets."""
    ordered = sorted(tensors, key=lambda tensor: by_item_size(tensor.dtype))
    header, _ = header_of([(tensor.key, tensor.dtype, tensor.shape) for tensor in ordered], metadata)
    parts = [memoryview(header)]
    parts += [memory[tensor.offset : tensor.offset + tensor.size_bytes] for tensor in ordered if tensor.size_bytes]
    return ShardFile(tensors=tuple(tensors), parts=tuple(parts))


def parse(data: bytes) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file, as read-only views into `data`.

    Raises:
        ValueError: not such a file.
    """
    start = 8 + int.from_bytes(data[:8], "little")
    if len(data) < 8 or start > len(data):
        raise ValueError("no safetensors file: its header is cut")
    header = json.loads(data[8:start])
    arrays: dict[str, np.ndarray] = {}
    for key, item in header.items():
        if key == "__metadata__":
            continue
        dtype, shape, (begin, end) = _NUMPY_OF[item["dtype"]], item["shape"], item["data_offsets"]
        if end - begin != math.prod(shape) * dtype.itemsize or not 0 <= begin <= end <= len(data) - start:
            raise ValueError(f"no safetensors file: the bytes of {key} do not fit its shape")
        flat = np.frombuffer(data, dtype, count=math.prod(shape), offset=start + begin)
        arrays[key] = flat.reshape(shape)
    return arrays
