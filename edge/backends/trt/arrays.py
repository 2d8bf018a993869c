"""Arrays of other libraries that live on the GPU: ``__cuda_array_interface__`` and DLPack."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from itertools import accumulate
from operator import mul

import numpy as np

from edge.backends.base import Native
from edge.backends.trt.cuda import LEGACY_STREAM
from edge.errors import EdgeError


@dataclass(frozen=True)
class View:
    """Device memory of somebody else. ``stream``: whose work must end before it is read; None for
    nothing. ``owner`` keeps it."""

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype
    contiguous: bool
    stream: int | None
    owner: Native


def view(array: Native, stream: int) -> View:
    """Where an array's memory is. A DLPack producer is told to make ``stream`` wait by itself."""
    interface = getattr(array, "__cuda_array_interface__", None)  # a protocol of any library's arrays
    if interface is not None:
        dtype = np.dtype(interface["typestr"])
        shape = tuple(interface["shape"])
        strides = interface.get("strides")
        plain = strides is None or tuple(strides) == _strides(shape, dtype.itemsize)
        # Before version 3 nothing is said of streams; libraries then mean the legacy default
        # stream.
        producer = interface.get("stream") if interface.get("version", 0) >= 3 else LEGACY_STREAM
        return View(interface["data"][0], shape, dtype, plain, producer, array)
    return _from_capsule(array.__dlpack__(stream=stream))


class _Tensor(ctypes.Structure):
    """DLTensor: data, device, dimensions, type (code, bits, lanes), shape, strides in elements,
    offset in bytes."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_kind", ctypes.c_int32),
        ("device_index", ctypes.c_int32),
        ("dimensions", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("offset", ctypes.c_uint64),
    )


KINDS = {0: "i", 1: "u", 2: "f"}  # DLPack's type codes, as NumPy names them


def _from_capsule(capsule: Native) -> View:
    """The capsule frees the tensor when it goes, since it was not renamed: the view keeps it."""
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    tensor = ctypes.cast(pointer(capsule, b"dltensor"), ctypes.POINTER(_Tensor)).contents
    if tensor.code not in KINDS or tensor.lanes != 1:
        raise EdgeError("infer", f"The device array has DLPack type {tensor.code} with {tensor.lanes} lanes", "Convert it to float32")
    shape = tuple(tensor.shape[axis] for axis in range(tensor.dimensions))
    dtype = np.dtype(f"{KINDS[tensor.code]}{tensor.bits // 8}")
    plain = not tensor.strides or tuple(tensor.strides[axis] for axis in range(tensor.dimensions)) == _strides(shape, 1)
    return View((tensor.data or 0) + tensor.offset, shape, dtype, plain, None, capsule)


def _strides(shape: tuple[int, ...], step: int) -> tuple[int, ...]:
    return tuple(accumulate(shape[:0:-1], mul, initial=step))[::-1]
