"""Access patterns of one memory channel, as requests of segments: what the banked memory and DRAMsim3 are both given.

A request is (write, moves); a move is `outer` x `inner` segments of `bytes`, as `simulator/banked.py` lays them out.
Nothing is drawn: scattered places follow Knuth's multiplicative hash, so that anybody can write the same trace.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from skipsim.hwmodels.dram import Dram

Move = tuple[int, int, int, int, int, int]  # address, bytes, inner, inner stride, outer, outer stride
Request = tuple[bool, list[Move]]

STREAM_BYTES, BLOCK_BYTES = 2**20, 4096
SCATTERED, SPAN_BYTES, TOGETHER = 8192, 2**26, 256
SIDE, CHANNELS, TILES = 128, 64, 64  # a map of 128 x 128 pixels, 64 channels of one byte; tiles taken of it
OUTPUT, STATE = 2**22, 2**23  # where the second and the third map begin


def scattered(number: int, places: int) -> int:
    """Return the place of `number` among `places`, a power of two: the top bits of number x 2654435761 mod 2^32."""
    return (number * 2654435761 % 2**32) * places >> 32


def stream(part: Dram, write: bool = False) -> Iterator[Request]:
    """One MiB in order, in blocks of 4 KiB."""
    for begin in range(0, STREAM_BYTES, BLOCK_BYTES):
        yield write, [(begin, BLOCK_BYTES, 1, 0, 1, 0)]


def random(part: Dram, write: bool = False) -> Iterator[Request]:
    """Single bursts, scattered over 64 MiB, 256 to a request."""
    size, moves = part.burst_bytes, []
    for number in range(SCATTERED):
        moves.append((scattered(number, SPAN_BYTES // size) * size, size, 1, 0, 1, 0))
        if len(moves) == TOGETHER:
            yield write, moves
            moves = []


def copy(part: Dram) -> Iterator[Request]:
    """One MiB read and written elsewhere, 4 KiB at a time."""
    for begin in range(0, STREAM_BYTES, BLOCK_BYTES):
        yield False, [(begin, BLOCK_BYTES, 1, 0, 1, 0)]
        yield True, [(OUTPUT + begin, BLOCK_BYTES, 1, 0, 1, 0)]


def corners(tile: int) -> list[tuple[int, int]]:
    """Return (row, column) of 64 tiles of the map, in scan order, none at its edge: what a mask might leave active."""
    grid = SIDE // tile - 2  # without the edge
    places = sorted({number * grid * grid // TILES + scattered(number, 2) for number in range(TILES)})
    return [(tile * (1 + place // grid), tile * (1 + place % grid)) for place in places]


def window(base: int, row: int, column: int, side: int) -> Move:
    """Return a square cut of an NHWC map: one segment per row."""
    pixel, line = CHANNELS, SIDE * CHANNELS
    return base + row * line + column * pixel, side * pixel, side, line, 1, 0


def planes(base: int, row: int, column: int, side: int) -> Move:
    """Return the same cut of an NCHW map: one segment per row and channel."""
    return base + row * SIDE + column, side, side, SIDE, CHANNELS, SIDE * SIDE


def gather(part: Dram, tile: int, cut: Callable[[int, int, int, int], Move] = window) -> Iterator[Request]:
    """The windows of active tiles of a 3x3 layer, one request each."""
    for row, column in corners(tile):
        yield False, [cut(0, row - 1, column - 1, tile + 2)]


def update(part: Dram, tile: int) -> Iterator[Request]:
    """What `difference` moves per tile: windows of x and of its reference, the tile of z; then z written back."""
    for row, column in corners(tile):
        state = window(STATE, row, column, tile)
        yield False, [window(0, row - 1, column - 1, tile + 2), window(OUTPUT, row - 1, column - 1, tile + 2), state]
        yield True, [state]


PATTERNS: dict[str, Callable[[Dram], Iterator[Request]]] = {
    "stream, read": stream,
    "stream, written": lambda part: stream(part, write=True),
    "copy": copy,
    "random bursts, read": random,
    "random bursts, written": lambda part: random(part, write=True),
    "8x8 tiles, NHWC": lambda part: gather(part, 8),
    "4x4 tiles, NHWC": lambda part: gather(part, 4),
    "1x1 tiles, NHWC": lambda part: gather(part, 1),
    "8x8 tiles, NCHW": lambda part: gather(part, 8, planes),
    "8x8 tiles, update": lambda part: update(part, 8),
    "4x4 tiles, update": lambda part: update(part, 4),
}


def bursts(part: Dram, requests: Iterator[Request]) -> Iterator[tuple[int, bool]]:
    """Yield (address, write) of every burst that the requests touch, in order."""
    size = part.burst_bytes
    for write, moves in requests:
        for address, length, inner, inner_stride, outer, outer_stride in moves:
            for far in range(outer):
                for near in range(inner):
                    begin = address + far * outer_stride + near * inner_stride
                    for burst in range(begin // size, (begin + length - 1) // size + 1):
                        yield burst * size, write


READS, APART_CLOCKS = 4, 400  # reads of one burst, far enough apart to find the memory idle, over before a refresh
STRIDES: dict[str, Callable[[Dram], int]] = {
    "the row is open": lambda part: part.bank_groups * part.burst_bytes,
    "the bank is closed": lambda part: part.bank_groups * part.row_bytes,
    "another row is open": lambda part: part.bank_groups * part.row_bytes * part.banks_per_group,
}
