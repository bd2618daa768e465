"""Tensors of random checkpoints: (name, dtype, shape, block, bytes, start) each, written by repeating the block from `start` on."""
import array
import functools
import os
import struct
import zlib

CODES = os.urandom(1 << 24)


SCALE_BITS = array.array("H", (0x3B00 | byte for byte in os.urandom(1 << 20)))  # bf16 between 0.002 and 0.008
SCALES = SCALE_BITS.tobytes()


# Powers of two, 2^-8 to 2^-6; codes of e2m1 are centred by themselves.
POWERS = bytes(119 + byte % 3 for byte in os.urandom(1 << 20))


@functools.cache
def biases(bits):
    """Half the range of the codes below zero, so that weights are centred: routers would prefer the same experts for every token."""
    return array.array("H", (0x8000 | (scale + ((bits - 1) << 7)) for scale in SCALE_BITS)).tobytes()


def repeated(block, size, start=0):
    if start:
        yield block[start: start + size]
        size -= len(block) - start
    while size > 0:
        yield block[: min(size, len(block))]
        size -= len(block)


def matrix(name, out, columns, bits, group, experts=()):
    rows = out * (experts[0] if experts else 1)
    start = zlib.crc32(name.encode()) % (len(SCALES) // 4) * 4  # layers that were alike would make all tokens alike
    yield name + ".weight", "U32", [*experts, out, columns * bits // 32], CODES, rows * columns * bits // 8, start
    yield name + ".scales", "BF16", [*experts, out, columns // group], SCALES, rows * columns // group * 2, start
    yield name + ".biases", "BF16", [*experts, out, columns // group], biases(bits), rows * columns // group * 2, start


def mxfp4_matrix(name, out, columns, experts=()):
    rows = out * (experts[0] if experts else 1)
    start = zlib.crc32(name.encode()) % (len(POWERS) // 4) * 4
    yield name + ".weight", "U32", [*experts, out, columns // 8], CODES, rows * columns // 2, start
    yield name + ".scales", "U8", [*experts, out, columns // 32], POWERS, rows * columns // 32, start


def vector(name, size):
    yield name + ".weight", "BF16", [size], b"\x80\x3f" * (1 << 16), 2 * size, 0  # ones


def zeros(name, *dims):
    size = 2
    for dim in dims:
        size *= dim
    yield name, "BF16", list(dims), bytes(1 << 16), size, 0


def values(name, dtype, shape, numbers):
    """A few numbers, over and over."""
    block = b"".join(struct.pack("<f", number)[0 if dtype == "F32" else 2:] for number in numbers) * 1024
    count = 1
    for size in shape:
        count *= size
    yield name, dtype, shape, block, count * (4 if dtype == "F32" else 2), 0
