"""What stands at the head of a GGUF file: metadata, and the shapes of the tensors."""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path

from hobot_llamacpp_py.errors import ModelFileError

__all__ = ['BOOL', 'FLOATS', 'FLOAT32', 'STRING', 'UINT32', 'GgufHeader', 'Value', 'check_magic']

Value = int | float | bool | str | list['Value']

# The types of GGUF values by their number; 8 is a string, 9 an array.
_FORMATS = dict(enumerate(('B', 'b', 'H', 'h', 'I', 'i', 'f', '?', '', '', 'Q', 'q', 'd')))
_STRING, _ARRAY = 8, 9
UINT32, FLOAT32, BOOL, STRING, FLOATS = (4,), (6,), (7,), (_STRING,), (_ARRAY, 6)
"""Kinds of values."""
_MAX_AXES = 4
_MOST_VALUES = 1 << 24  # of an array: no vocabulary is as large
# Numbers in a block and bytes of a block by the number of the tensor type: F32, F16, Q4_0, Q4_1,
# Q5_0, Q5_1, Q8_0, Q8_1, Q2_K to Q8_K, IQ2_XXS, IQ2_XS, IQ3_XXS, IQ1_S, IQ4_NL, IQ3_S, IQ2_S,
# IQ4_XS, I8 to I64, F64, IQ1_M, BF16, TQ1_0, TQ2_0, MXFP4. Of others only the start is known.
_BLOCKS = {
    **{0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34)},
    **{9: (32, 40), 10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176)},
    **{14: (256, 210), 15: (256, 292), 16: (256, 66), 17: (256, 74), 18: (256, 98)},
    **{19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82), 23: (256, 136), 24: (1, 1)},
    **{25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2), 34: (256, 54)},
    **{35: (256, 66), 39: (32, 17)},
}


def check_magic(path: Path) -> None:
    """Check that a file can be read and begins as a GGUF file does.

    Raises:
        ModelFileError: it does not.
    """
    try:
        with path.open('rb') as file:
            magic = file.read(4)
    except OSError as error:
        raise ModelFileError(f'{path}: {error.strerror}') from None
    if magic != b'GGUF':
        raise ModelFileError(
            f'{path} is not a GGUF file (it starts with {magic!r}); download it again, a git-lfs'
            ' pointer or an error page may stand in its place'
        )


@dataclass(frozen=True)
class GgufHeader:
    """What stands at the head of a file.

    Attributes:
        metadata: values by their keys.
        kinds: of which kind each of them is: the number of its type, and that of an array's items.
        shapes: those of the tensors by name; the axis that lies together comes first.
    """

    metadata: dict[str, Value]
    kinds: dict[str, tuple[int, ...]]
    shapes: dict[str, tuple[int, ...]]

    def integer(self, key: str) -> int:
        """Return a whole number of the metadata, 0 where there is none."""
        value = self.metadata.get(key)
        return value if isinstance(value, int) else 0

    @classmethod
    def read(cls, path: Path) -> GgufHeader:
        """Read the header of a GGUF file.

        Raises:
            ModelFileError: the file cannot be read, is no GGUF file, or is cut off. (libmtmd
                loads a file that is cut off, with whatever was in memory in the missing place.)
        """
        check_magic(path)
        try:
            with (
                path.open('rb') as file,
                mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
            ):
                header, size = _Reader(data).header()
                if len(data) < size:
                    raise ModelFileError(
                        f'{path} is cut off: it has {len(data)} of {size} bytes; download it again'
                    )
                return header
        except OSError as error:
            raise ModelFileError(f'{path}: {error.strerror}') from None
        except (struct.error, ValueError, KeyError, OverflowError):
            raise ModelFileError(
                f'{path} is damaged: its GGUF header cannot be read; download it again'
            ) from None


class _Reader:
    def __init__(self, data: mmap.mmap) -> None:
        self._data, self._at = data, 4

    def header(self) -> tuple[GgufHeader, int]:
        """Return the header and the bytes that the file must have at least."""
        version = self._integer('I')
        if version not in (2, 3):
            raise ValueError(version)
        n_tensors, n_values = self._integer('Q'), self._integer('Q')
        metadata: dict[str, Value] = {}
        kinds: dict[str, tuple[int, ...]] = {}
        for _ in range(n_values):
            key, kind = self._string(), self._integer('I')
            if key in metadata:  # else a file of zeros would go on for long
                raise ValueError(key)
            if kind == _ARRAY:
                item = self._integer('I')
                metadata[key], kinds[key] = self._array(item), (kind, item)
            else:
                metadata[key], kinds[key] = self._value(kind), (kind,)
        shapes: dict[str, tuple[int, ...]] = {}
        end = 0
        for _ in range(n_tensors):
            name, n_axes = self._string(), self._integer('I')
            if name in shapes or n_axes > _MAX_AXES:
                raise ValueError(name)
            shapes[name] = tuple(self._integer('Q') for _ in range(n_axes))
            numbers, size = _BLOCKS.get(self._integer('I'), (1, 0))
            end = max(end, self._integer('Q') + math.prod(shapes[name]) // numbers * size)
        alignment = metadata.get('general.alignment', 32)
        if not isinstance(alignment, int) or alignment < 1:
            raise ValueError(alignment)
        return GgufHeader(metadata, kinds, shapes), -(-self._at // alignment) * alignment + end

    def _value(self, kind: int) -> Value:
        return self._string() if kind == _STRING else self._number(_FORMATS[kind])

    def _array(self, item: int) -> Value:
        count = self._integer('Q')
        if count > _MOST_VALUES:
            raise ValueError(count)
        if item == _STRING:
            return [self._string() for _ in range(count)]
        format = f'<{count}{_FORMATS[item]}'  # of an array in an array, which there is not: none
        values = list(struct.unpack_from(format, self._data, self._at))
        self._at += struct.calcsize(format)
        return values

    def _integer(self, format: str) -> int:
        return int(self._number(format))

    def _number(self, format: str) -> int | float | bool:
        number: int | float | bool
        (number,) = struct.unpack_from('<' + format, self._data, self._at)
        self._at += struct.calcsize('<' + format)
        return number

    def _string(self) -> str:
        size = self._integer('Q')
        text = self._data[self._at : self._at + size]
        if len(text) != size:
            raise ValueError(size)
        self._at += size
        return text.decode('utf-8', 'replace')
