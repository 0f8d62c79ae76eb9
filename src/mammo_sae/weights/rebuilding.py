"""Constructors for the known names in a weight file: tensors, NumPy arrays, plain containers.

Every claimed size is compared with the bytes that exist, before anything is allocated.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mammo_sae.weights.unpickling import Constructor, Damaged, Foreign, Global, Unfinished

MOST_AXES = 16
STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "UntypedStorage": torch.uint8,
}
TENSOR_TYPES = {str(kind).removeprefix("torch."): kind for kind in STORAGES.values()}
# Numbers, booleans and text: the types that NumPy stores in the array's own bytes.
NUMPY_TYPE = re.compile(r"[<>|=]?([biufSU]\d{1,6}|\?)")


@dataclass(frozen=True, slots=True)
class Storage:
    """A one-dimensional array of numbers of one type, contiguous in a file."""

    values: Tensor


def storage_type(kind: Any) -> torch.dtype | None:
    """Return the number type of a storage class, given its name, or None if it is unknown."""
    if isinstance(kind, Global) and kind.module in ("torch", "torch.storage", "torch.cuda"):
        return STORAGES.get(kind.name)
    return None


def storage(buffer: Any, offset: int, count: int, kind: torch.dtype) -> Storage:
    """Return `count` numbers of `buffer` from byte `offset` on. Unaligned numbers are copied."""
    size = kind.itemsize
    if count == 0:
        return Storage(torch.empty(0, dtype=kind))
    if offset % size:  # torch needs aligned numbers
        buffer, offset = bytearray(memoryview(buffer)[offset : offset + count * size]), 0
    return Storage(torch.frombuffer(buffer, dtype=kind, count=count, offset=offset))


def _tensor(
    source: Any, offset: int, size: Iterable[int], stride: Iterable[int], *_rest: Any
) -> Tensor | Foreign:
    """Return a view of a storage, for torch._utils._rebuild_tensor and _rebuild_tensor_v2."""
    if isinstance(source, Foreign):
        return source
    if not isinstance(source, Storage):
        raise Damaged("a tensor has no storage")
    size, stride = tuple(size), tuple(stride)
    numbers = (offset, *size, *stride)
    if len(size) != len(stride) or len(size) > MOST_AXES:
        raise Damaged(f"a tensor has {len(size)} sizes and {len(stride)} strides")
    if not all(type(number) is int and 0 <= number < 1 << 62 for number in numbers):
        raise Damaged("a size, stride or offset of a tensor is no whole number from 0 on")
    there, count = source.values.numel(), math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if count == 0:
        return torch.empty(size, dtype=source.values.dtype)
    if count > there or last >= there:
        raise Damaged(f"a tensor of sizes {size} goes beyond its storage of {there} numbers")
    return source.values.as_strided(size, stride, offset)


def _tensor_of_type(
    source: Any, offset: int, size: Any, stride: Any, _grad: Any, _hooks: Any, kind: Any, *_: Any
) -> Tensor | Foreign:
    """Return a view of an untyped storage, for torch._utils._rebuild_tensor_v3."""
    found = TENSOR_TYPES.get(kind.name) if isinstance(kind, Global) else None
    if found is None:
        return Foreign(str(kind)[:120])
    if not isinstance(source, Storage):
        return _tensor(source, offset, size, stride)
    values = source.values
    if values.numel() % found.itemsize:
        raise Damaged("a storage holds part of a number")
    if values.numel():
        values = values.view(found)
    return _tensor(Storage(values), offset, size, stride)


def _parameter(data: Any, *_rest: Any) -> Any:
    """Return the tensor of a torch.nn.Parameter."""
    return data


def _of_subclass(function: Any, _kind: Any, arguments: tuple[Any, ...], _state: Any) -> Any:
    """Return a tensor's subclass as a plain tensor, for torch._tensor._rebuild_from_type_v2."""
    known = TENSORS.get(function) if isinstance(function, Global) else None
    return known(*arguments) if known is not None else Foreign(str(function)[:120])


class _Type(Unfinished):
    """A numpy.dtype: a name, and a state that gives the byte order."""

    def __init__(self, name: Any, *_rest: Any) -> None:
        self._name = name if isinstance(name, str) and NUMPY_TYPE.fullmatch(name) else None
        self._order = ""

    def build(self, state: Any) -> _Type:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">"):
            self._order = state[1]
        return self

    def dtype(self) -> np.dtype[Any] | None:
        """Return the type, or None if the values are Python objects outside the array's bytes."""
        return None if self._name is None else np.dtype(self._order + self._name.lstrip("<>|="))


class Constructors:
    """The known constructors, with a limit on the bytes that they copy for one file.

    Parameters
    ----------
    budget
        Largest number of bytes to copy: the file's size, because each byte is copied at most once.
    """

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self.table: dict[Global, Constructor] = {
            **TENSORS,
            Global("torch._tensor", "_rebuild_from_type_v2"): _of_subclass,
            Global("torch", "Size"): _same(tuple),
            Global("collections", "OrderedDict"): _mapping,
            Global("collections", "Counter"): _mapping,
            Global("collections", "defaultdict"): _default_mapping,
            Global("_codecs", "encode"): self._bytes,
            Global("numpy", "dtype"): _Type,
        }
        for builtins in ("builtins", "__builtin__"):
            self.table[Global(builtins, "list")] = _same(list)
            self.table[Global(builtins, "tuple")] = _same(tuple)
            self.table[Global(builtins, "dict")] = _mapping
        for core in ("numpy.core", "numpy._core"):
            self.table[Global(f"{core}.multiarray", "_reconstruct")] = self._reconstruct
            self.table[Global(f"{core}.multiarray", "scalar")] = self._scalar
            self.table[Global(f"{core}.numeric", "_frombuffer")] = self._from_buffer

    def numbers(self, data: Any, kind: Any, shape: Any, by_column: bool) -> np.ndarray | Foreign:
        """Return a NumPy array, or a `Foreign` for an array of Python objects."""
        dtype = kind.dtype() if isinstance(kind, _Type) else None
        if dtype is None or not isinstance(data, bytes | bytearray):
            return Foreign("numpy.ndarray")
        whole = isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape)
        if not whole or len(shape) > MOST_AXES:
            raise Damaged("an array of NumPy has no shape")
        if dtype.itemsize == 0 or math.prod(shape) * dtype.itemsize != len(data):
            raise Damaged(f"an array of NumPy claims another size than its {len(data)} bytes")
        array = np.frombuffer(data, dtype=dtype).reshape(shape, order="F" if by_column else "C")
        if not dtype.isnative:
            self._spend(len(data))
            array = array.astype(dtype.newbyteorder("="))
        return array

    def _reconstruct(self, *_arguments: Any) -> _Array:
        return _Array(self)

    def _scalar(self, kind: Any, data: Any = None) -> Any:
        value = self.numbers(data, kind, (), by_column=False)
        return value if isinstance(value, Foreign) else value[()]

    def _from_buffer(self, data: Any, kind: Any, shape: Any, order: Any) -> Any:
        return self.numbers(data, kind, shape, by_column=order == "F")

    def _bytes(self, text: Any, encoding: Any = "utf-8") -> Any:
        """Return bytes that an old protocol stores as text, for _codecs.encode(text, 'latin1')."""
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
            return Foreign("_codecs.encode")
        self._spend(len(text))
        return text.encode("latin-1")

    def _spend(self, count: int) -> None:
        self._budget -= count
        if self._budget < 0:
            raise Damaged("it copies more bytes than it has")


class _Array(Unfinished):
    """A numpy.ndarray before its state is known."""

    def __init__(self, constructors: Constructors) -> None:
        self._constructors = constructors

    def build(self, state: Any) -> np.ndarray | Foreign:
        if not isinstance(state, tuple) or len(state) != 5:
            raise Damaged("an array of NumPy has an invalid state")
        _, shape, kind, by_column, data = state
        return self._constructors.numbers(data, kind, shape, by_column is True)


# A constructor returns the given container and not a copy. With copies, a thousand references to
# one container would take a thousand times its memory.
def _mapping(items: Any = None) -> Any:
    if items is None:
        return {}
    return items if isinstance(items, dict) else Foreign("dict")


def _default_mapping(*_factory: Any) -> dict[Any, Any]:
    return {}


def _same(kind: type[list[Any]] | type[tuple[Any, ...]]) -> Constructor:
    def constructor(items: Any = None) -> Any:
        if items is None:
            return kind()
        return items if isinstance(items, kind) else Foreign(kind.__name__)

    return constructor


TENSORS: dict[Global, Constructor] = {
    Global("torch._utils", "_rebuild_tensor"): _tensor,
    Global("torch._utils", "_rebuild_tensor_v2"): _tensor,
    Global("torch._utils", "_rebuild_tensor_v3"): _tensor_of_type,
    Global("torch._utils", "_rebuild_parameter"): _parameter,
    Global("torch._utils", "_rebuild_parameter_with_state"): _parameter,
}
