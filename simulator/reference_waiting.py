"""What the units of the reference engine wait for: the clock, an arbiter, each other's progress, parts of a buffer."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import simpy
from simpy.events import EventPriority

Serve = Callable[[int], tuple[int, int]]  # grant -> (cycle of the next grant, arrival of the last byte)


class Clock(simpy.Environment):
    """SimPy's environment, counting whole cycles."""

    @property
    def cycle(self) -> int:
        """The cycle that it is now."""
        return int(self.now)


class Arbiter:
    """Grants one request at a time, at the end of the cycle, by (request cycle, order)."""

    def __init__(self, env: Clock, priority: int) -> None:
        self.env, self.priority = env, priority
        self.waiting: list[tuple[tuple[int, ...], simpy.Event, Serve, Hashable]] = []
        self.free_at = 0
        self.decision_pending = False

    def request(self, order: tuple[int, ...], serve: Serve, what: Hashable = None) -> simpy.Event:
        """Return an event that fires when granted, with (grant, cycle of the next grant, arrival of the last byte).

        Requests for the same thing (`what`) are served together: the first is granted, the others fire with it and take
        no time of their own: for them the next grant is this one.
        """
        granted = self.env.event()
        self.waiting.append(((self.env.cycle, *order), granted, serve, what))
        self._decide_at(max(self.env.cycle, self.free_at))
        return granted

    def _decide_at(self, cycle: int) -> None:
        if not self.decision_pending:
            self.decision_pending = True
            decision = self.env.event()
            decision._ok, decision._value = True, None
            decision.callbacks.append(self._decide)
            self.env.schedule(decision, priority=EventPriority(self.priority), delay=cycle - self.env.cycle)

    def _decide(self, _: simpy.Event) -> None:
        self.decision_pending = False
        first = min(self.waiting, key=lambda entry: entry[0])
        self.waiting.remove(first)
        granted, serve, what = first[1:]
        grant = self.env.cycle
        self.free_at, arrival = serve(grant)
        granted.succeed((grant, self.free_at, arrival))
        for other in [entry for entry in self.waiting if what is not None and entry[3] == what]:
            self.waiting.remove(other)
            other[1].succeed((grant, grant, arrival))
        if self.waiting:
            self._decide_at(self.free_at)


class Progress:
    """A count that only grows, and that others wait for."""

    def __init__(self, env: Clock) -> None:
        self.env, self.count = env, 0
        self.waiting: list[tuple[int, simpy.Event]] = []

    def advance(self) -> None:
        """Count one more and wake whoever waited for it."""
        self.count += 1
        for entry in [entry for entry in self.waiting if entry[0] <= self.count]:
            self.waiting.remove(entry)
            entry[1].succeed()

    def reaches(self, wanted: int) -> simpy.Event:
        """Return an event that fires once the count is at least `wanted`."""
        event = self.env.event()
        if self.count >= wanted:
            event.succeed()
        else:
            self.waiting.append((wanted, event))
        return event


class Parts:
    """A buffer of `halves` parts: filling number n may begin when every pass that used filling n - halves is done."""

    def __init__(self, halves: int, done: Progress) -> None:
        self.halves, self.done = halves, done
        self.first_pass: list[int] = []  # of each filling, counted within the core and stage

    def free_for(self, passes_before: int) -> simpy.Event:
        """Return an event that fires when a part is free for a filling that begins after `passes_before` passes."""
        still_used = len(self.first_pass) - self.halves + 1  # this filling and younger ones may still be in use
        starts = [*self.first_pass, passes_before]
        return self.done.reaches(starts[still_used] if still_used > 0 else 0)

    def take(self, passes_before: int) -> None:
        """Note that a filling begins."""
        self.first_pass.append(passes_before)
