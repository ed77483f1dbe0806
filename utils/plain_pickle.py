"""Read pickles of numbers and arrays, such as NSGA-II result files, without running any code in them."""

import io
import math
import pickle
import pickletools
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

# The pickle operations for arrays, numbers, text, lists and tuples. A pickle with any other is refused before anything
# is loaded: ten bytes can fill the memory (LONG_BINPUT) or occupy the processor for years (a dict keyed by nested
# tuples).
_OPCODES: Final = (
    *("PROTO", "FRAME", "STOP", "MARK", "MEMOIZE", "BINPUT", "BINGET"),
    *("NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "BINFLOAT"),
    *("SHORT_BINUNICODE", "BINUNICODE", "SHORT_BINBYTES", "BINBYTES", "BYTEARRAY8"),
    *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST", "APPEND", "APPENDS"),
    *("GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD"),
)


class ForbiddenError(Exception):
    """A pickle contains something other than arrays and plain values."""


class _PickledDtype:
    """The state of a pickled dtype, which ``to_numpy`` checks."""

    def __init__(self, code: object = "", *_flags: object) -> None:
        self.code = code
        self.byte_order: object = "<"

    def __setstate__(self, state: object) -> None:
        # version, byte order, sub-array, field names, fields, size, alignment, flags
        if isinstance(state, tuple) and len(state) == 8 and all(part is None for part in state[2:5]):
            self.byte_order = state[1]
        else:
            self.byte_order = None

    def to_numpy(self) -> "np.dtype[Any] | None":
        # Tuples, not sets: an object from a file may have no hash, or one whose computation never ends.
        if self.code not in ("f4", "f8", "i4", "i8", "u1", "b1") or self.byte_order not in ("<", ">", "|", "="):
            return None
        return np.dtype(f"{self.byte_order}{self.code}")


class PickledArray:
    """The state of a pickled array or scalar. ``to_numpy`` checks it, and NumPy gets only checked bytes."""

    def __init__(self, shape: object = (), dtype: object = None, data: object = b"", fortran: object = False) -> None:
        self.parts = (shape, dtype, data, fortran)

    def __setstate__(self, state: object) -> None:
        if isinstance(state, tuple) and len(state) == 5:
            _version, shape, dtype, fortran, data = state
            self.parts = (shape, dtype, data, fortran)

    def to_numpy(self) -> NDArray[Any] | None:
        """Return the array; None if the state is not that of an array of numbers with at most two dimensions."""
        shape, pickled, data, fortran = self.parts
        dtype = pickled.to_numpy() if isinstance(pickled, _PickledDtype) else None
        if dtype is None or not isinstance(data, bytes | bytearray) or not isinstance(shape, tuple):
            return None
        if len(shape) > 2 or not all(isinstance(length, int) and length > 0 for length in shape):
            return None
        if math.prod(shape) * dtype.itemsize != len(data):
            return None
        return np.frombuffer(data, dtype=dtype).reshape(shape, order="F" if fortran else "C")


def load(data: bytes) -> object:
    """Return the content of a pickle: numbers, text, lists and tuples; arrays and NumPy scalars as ``PickledArray``.

    Raises:
        ForbiddenError: the pickle contains anything else, or refers to another class or function.
        Exception: the pickle is damaged; the exception can be of almost any type.
    """
    for opcode, _argument, _position in pickletools.genops(data):
        if opcode.name not in _OPCODES:
            raise ForbiddenError(f"the pickle operation {opcode.name}")
    return _PlainUnpickler(io.BytesIO(data)).load()


class _PlainUnpickler(pickle.Unpickler):
    """An unpickler of plain values, and of NumPy arrays and scalars as ``PickledArray``; others raise an error."""

    _ADMITTED: Final[dict[str, Callable[..., object]]] = {
        "dtype": _PickledDtype,
        "ndarray": PickledArray,
        "_reconstruct": lambda *_: PickledArray(),
        "scalar": lambda dtype, data: PickledArray((), dtype, data),
        "_frombuffer": lambda data, dtype, shape, order: PickledArray(shape, dtype, data, order == "F"),
    }

    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] == "numpy" and name in self._ADMITTED:
            return self._ADMITTED[name]
        raise ForbiddenError(f"{module}.{name}"[:80])
