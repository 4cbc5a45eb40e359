"""Bursts, compiled: which bursts a request asks of every channel, as few runs (`banks.py`).

Channels take turns every `interleave` bytes, so what a channel has of a segment is contiguous in its own count of
bursts, and many segments of one cut of a map lie alike. Channels do not wait for one another: only the order on each
of them matters.
"""

from __future__ import annotations

from skipsim.compiled import compiled, inlined
from skipsim.simulator.banks import LONG_AGO, ROOM, at, serve_runs

# One move: `outer` x `inner` contiguous segments of `bytes` each.
MOVE_COLUMNS = ("address", "bytes", "inner", "inner_stride", "outer", "outer_stride")
ADDRESS, SEGMENT, INNER, INNER_STRIDE, OUTER, OUTER_STRIDE = range(6)


@inlined
def _push(t, channel, first, count, runs, write, asked):
    """Put a run with those that wait; return how many wait now."""
    if runs == ROOM:
        channel.runs = runs
        serve_runs(t, channel, write, asked)
        runs = 0
    channel.run_first[at(runs)], channel.run_count[at(runs)] = first, count
    return runs + 1


@inlined
def _note(t, channel, begin, length, apart, pieces, write, asked):
    """Note `length` bursts of a channel from burst `begin` on, and again `apart` bursts on, `pieces` times.

    Bursts of one line (a row of every bank group) join the run before if they go on with the next group in turn: no
    time depends on which burst of a row it is.
    """
    shift, in_turn = t.line_shift, t.groups - 1
    first, count, runs = channel.first, channel.count, channel.runs
    for _ in range(pieces):
        joined, skipped = 0, begin - first - count
        if (
            skipped >= 0
            and skipped & in_turn == 0
            and (((first ^ begin) | ((first + count - 1) ^ begin)) >> shift) == 0
        ):
            joined = min(length, (((begin >> shift) + 1) << shift) - begin)
            count += joined
        if joined < length:
            if count:
                runs = _push(t, channel, first, count, runs, write, asked)
            first, count = begin + joined, length - joined
        begin += apart
    channel.first, channel.count, channel.runs = first, count, runs


@inlined
def _note_alike(t, channels, burst, length, apart, pieces, write, asked):
    """Note `length` bursts of the memory from `burst` on, and again `apart` bursts of a channel on, `pieces` times."""
    shift, last = t.chunk_shift, burst + length - 1
    chunk = burst >> shift
    slot = chunk >> t.channel_shift if t.channel_shift >= 0 else chunk // t.channels
    number, offset, left = chunk - slot * t.channels, burst - (chunk << shift), (last >> shift) - chunk
    tail = last + 1 - (last >> shift << shift)
    for _ in range(min(left + 1, t.channels)):
        rounds = left >> t.channel_shift if t.channel_shift >= 0 else left // t.channels
        end = (slot + rounds << shift) + (tail if rounds * t.channels == left else 1 << shift)
        begin = (slot << shift) + offset
        _note(t, channels[at(number)], begin, end - begin, apart, pieces, write, asked)
        offset, left, number = 0, left - 1, number + 1
        if number == t.channels:
            number, slot = 0, slot + 1


@inlined
def _turns(t, address, size, stride, segments):
    """Return after how many segments the next lies like the first, if those between use other channels; 0 = never."""
    if t.channel_shift < 0:
        return 1 if stride % t.round == 0 else 0
    step = stride & -stride  # the largest power of two that divides it
    if step >= t.round:
        return 1
    apart = step >= t.interleave and (address & (t.interleave - 1)) + size <= step
    return t.round // step if apart and segments * step > t.round else 0


@inlined
def note_segments(t, channels, address, size, stride, segments, write, asked):
    """Note `segments` of `size` bytes, `stride` bytes from one to the next."""
    burst_shift, interleave = t.burst_shift, t.interleave
    turns = _turns(t, address, size, stride, segments) if segments > 1 else 0
    near = 0 < stride < interleave and stride & (t.burst_bytes - 1) == 0
    apart = turns * stride // t.channels >> burst_shift if turns else stride >> burst_shift
    done = 0
    while done < segments:
        pieces = 1
        if turns:
            pieces = (segments - done - 1) // turns + 1
        elif near:  # those in the same chunk
            pieces = max(1, min(segments - done, (interleave - (address & (interleave - 1)) - size) // stride + 1))
        burst = address >> burst_shift
        length = ((address + size - 1) >> burst_shift) + 1 - burst
        _note_alike(t, channels, burst, length, apart, pieces, write, asked)
        address += stride if turns else pieces * stride
        done += 1 if turns else pieces
        if done == turns:
            return


@compiled
def serve_moves(t, channels, moves, first, count, write, asked):
    """Serve moves `first` to `first + count - 1`, asked for at tick `asked`; return the last column command's tick."""
    for number in range(first, first + count):
        move = moves[at(number)]
        if move[INNER] == 1:
            note_segments(
                t, channels, move[ADDRESS], move[SEGMENT], move[OUTER_STRIDE], move[OUTER], write, asked
            )  # fmt: skip
            continue
        for high in range(move[OUTER]):
            begin = move[ADDRESS] + high * move[OUTER_STRIDE]
            note_segments(t, channels, begin, move[SEGMENT], move[INNER_STRIDE], move[INNER], write, asked)
    latest = LONG_AGO
    for number in range(t.channels):
        channel = channels[at(number)]
        if channel.count:
            channel.runs = _push(t, channel, channel.first, channel.count, channel.runs, write, asked)
            channel.count = 0
            serve_runs(t, channel, write, asked)
            latest = max(latest, channel.last_column)
    return latest
