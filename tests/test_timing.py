"""Is the time right? Tables small enough to time by hand: nothing is ready at cycle t-1, everything is at cycle t."""

from dataclasses import dataclass

import numpy as np
import pytest

from skipsim.simulator import fast, reference
from skipsim.simulator.counters import CAUSES, EVENT_COLUMNS, Counters
from skipsim.simulator.tiles import (
    INPUT,
    LAST,
    OUTPUT,
    ROW_COLUMNS,
    SHARED,
    STAGE_COLUMNS,
    UNIT,
    WORK_COLUMNS,
    Machine,
    Tiles,
)

WHOLE = LAST | INPUT | OUTPUT | UNIT  # a tile that is a pass and a unit of its own

Row = dict[str, int]


@dataclass(frozen=True)
class Run:
    """What one engine says about a table of one or more stages."""

    counters: Counters

    def times(self, name: str) -> list[int]:
        """Return one event of every row."""
        assert self.counters.events is not None
        return [int(value) for value in self.counters.events[:, EVENT_COLUMNS.index(name)]]

    def causes(self, stage: int = 0, core: int = 0) -> dict[str, int]:
        """Return the causes that took any cycles."""
        cycles = [int(value) for value in self.counters.causes[stage, core]]
        return {cause: count for cause, count in zip(CAUSES, cycles, strict=True) if count}

    @property
    def ends(self) -> list[int]:
        return [int(value) for value in self.counters.end]

    @property
    def port_busy(self) -> list[int]:
        return [int(value) for value in self.counters.port_busy]


@pytest.fixture(params=[reference, fast], ids=["reference", "fast"])
def engine(request):
    """Run a table: stages are (rows, stage columns); rows are tiles of their own unless they carry flags."""

    def run(*stages: tuple[list[Row], Row], **numbers) -> Run:
        rows, heads = [], []
        for stage_rows, head in stages:
            heads.append({"first_row": len(rows), "rows": len(stage_rows)} | head)
            rows += [{"flags": WHOLE} | row for row in stage_rows]
        table = Tiles(
            np.array([[row.get(name, 0) for name in ROW_COLUMNS] for row in rows], np.int64),
            np.array([[head.get(name, 0) for name in STAGE_COLUMNS] for head in heads], np.int64),
            np.zeros((len(heads), len(WORK_COLUMNS)), np.int64),
        )
        assert all(set(row) <= set(ROW_COLUMNS) for row in rows), "a misspelt column"
        assert all(set(head) <= set(STAGE_COLUMNS) for head in heads), "a misspelt column"
        counters = request.param.run(table, Machine(**numbers), events=True)
        counters.check()
        return Run(counters)

    return run


# One tile: every step waits for the one before.


def test_one_tile_goes_through_every_step(engine):
    tile = {
        "index": 2, "gather": 3, "gather_port": 5, "read": 7, "compute": 11, "scatter": 2, "scatter_port": 4,
        "write": 6,
    }  # fmt: skip
    ran = engine(([tile], {"launch": 17, "gate": 19, "index": 23}), latency=13)
    start = 17 + 19 + 23
    assert ran.times("gather_begin") == [start]
    assert ran.times("weights_end") == [start]
    assert ran.times("issue_begin") == [start + 2]
    assert ran.times("request") == [start + 2 + 3]
    assert ran.times("grant") == [start + 5]
    assert ran.times("gather_end") == [start + 5 + 7]  # the slower of port and memory
    assert ran.times("compute_begin") == [start + 12 + 13]
    assert ran.times("compute_end") == [start + 25 + 11]
    assert ran.times("scatter_begin") == [start + 36]
    assert ran.times("write_request") == [start + 36 + 2]
    assert ran.times("write_grant") == [start + 38]
    assert ran.times("scatter_end") == ran.ends == [start + 38 + 6]
    assert ran.port_busy == [7 + 6]
    assert ran.causes() == {
        "launch": 17, "gate": 19, "index": 23 + 2, "gather_issue": 3, "gather_transfer": 7, "gather_latency": 13,
        "compute": 11, "scatter": 2 + 6,
    }  # fmt: skip


def test_a_slow_port_of_the_mover_outlasts_the_memory(engine):
    ran = engine(([{"gather_port": 9, "read": 4, "compute": 1, "scatter_port": 8, "write": 3}], {}), latency=2)
    assert ran.times("gather_end") == [9]
    assert ran.times("compute_begin") == [9 + 2]
    assert ran.times("scatter_end") == [9 + 2 + 1 + 8]
    assert ran.port_busy == [4 + 3]


def test_latency_is_the_memorys_and_needs_a_read(engine):
    assert engine(([{"gather_port": 9, "compute": 1}], {}), latency=50).ends == [10]


def test_a_tile_of_no_cycles_ends_as_it_begins(engine):
    ran = engine(([{}], {"launch": 3}))
    assert ran.ends == [3]
    assert ran.times("scatter_end") == [3]


def test_a_stage_without_tiles_takes_its_launch_gate_and_scan(engine):
    ran = engine(([], {"launch": 3, "gate": 4, "index": 5}), ([{"compute": 1}], {}), cores=2)
    assert ran.ends == [12, 13]
    assert ran.causes(0, 1) == {"launch": 3, "gate": 4, "index": 5}
    assert ran.causes(1, 1) == {"barrier": 1}


# Buffers in parts.

PHASES = [(4, 9, 3), (9, 4, 3), (3, 4, 9), (5, 5, 5), (1, 0, 7), (7, 0, 0), (0, 6, 0)]


@pytest.mark.parametrize(("gather", "compute", "scatter"), PHASES)
@pytest.mark.parametrize("tiles", [1, 2, 3, 7])
def test_double_buffers_overlap_the_phases(engine, gather, compute, scatter, tiles):
    row = {"gather_port": gather, "compute": compute, "scatter_port": scatter}
    period = max(gather, compute, scatter)
    assert engine(([row] * tiles, {}), halves=2).ends == [gather + compute + scatter + (tiles - 1) * period]


@pytest.mark.parametrize(("gather", "compute", "scatter"), PHASES)
@pytest.mark.parametrize("tiles", [1, 2, 3, 7])
def test_single_buffers_leave_gather_and_scatter_side_by_side(engine, gather, compute, scatter, tiles):
    """With one part, the next gather and this scatter both begin when the array is done, and it waits for both."""
    row = {"gather_port": gather, "compute": compute, "scatter_port": scatter}
    period = compute + max(gather, scatter)
    assert engine(([row] * tiles, {}), halves=1).ends == [gather + (tiles - 1) * period + compute + scatter]


@pytest.mark.parametrize("halves", [1, 2, 3])
def test_an_input_part_is_free_in_the_cycle_its_pass_is_computed(engine, halves):
    ran = engine(([{"gather_port": 1, "compute": 10}] * 5, {}), halves=halves)
    ends = ran.times("compute_end")
    for tile in range(halves, 5):
        assert ran.times("gather_begin")[tile] == max(ran.times("gather_end")[tile - 1], ends[tile - halves])


@pytest.mark.parametrize("halves", [1, 2, 3])
def test_an_output_part_is_free_in_the_cycle_its_pass_is_written(engine, halves):
    ran = engine(([{"compute": 1, "scatter_port": 10}] * 5, {}), halves=halves)
    assert ran.times("compute_begin")[:halves] == list(range(halves))
    for tile in range(halves, 5):
        assert ran.times("compute_begin")[tile] == ran.times("scatter_end")[tile - halves]
    total = 5 * (1 + 10) if halves == 1 else 1 + 5 * 10
    assert ran.causes() == {"compute": 5, "scatter": total - 5}


def test_a_pass_that_reuses_inputs_needs_no_new_part(engine):
    first = {"flags": WHOLE, "gather_port": 4, "compute": 10, "scatter_port": 1}
    again = {"flags": LAST | OUTPUT, "compute": 10, "scatter_port": 1}
    ran = engine(([first, again, first], {}), halves=1)
    assert ran.times("compute_begin") == [0 + 4, 4 + 10 + 1, 25 + 4]  # the second waits for its output part
    assert ran.times("gather_begin") == [0, 4, 15 + 10]  # the third for the last pass that used the input part
    assert ran.ends == [29 + 10 + 1]


def test_a_pass_that_adds_to_partial_sums_needs_no_new_output_part(engine):
    first = {"flags": INPUT | OUTPUT | UNIT | LAST, "compute": 5}
    then = {"flags": INPUT | LAST, "compute": 5, "scatter_port": 20}
    ran = engine(([first, then, first, then], {}), halves=1)
    assert ran.times("compute_begin") == [0, 5, 30, 35]
    assert ran.times("scatter_begin") == [5, 10, 35, 40]
    assert ran.ends == [60]


# Packed passes.


def test_a_pass_of_several_tiles_runs_once_when_the_last_has_arrived(engine):
    rows = [
        {"flags": UNIT | INPUT | OUTPUT, "gather_port": 3, "scatter_port": 2},
        {"flags": 0, "gather_port": 4, "scatter_port": 2},
        {"flags": LAST, "gather_port": 5, "compute": 6, "scatter_port": 2},
    ]
    ran = engine((rows, {}))
    assert ran.times("gather_end") == [3, 7, 12]
    assert ran.times("compute_begin") == [12] * 3
    assert ran.times("compute_end") == [18] * 3
    assert ran.times("scatter_begin") == [18, 20, 22]
    assert ran.ends == [24]
    assert ran.causes() == {"gather_transfer": 12, "compute": 6, "scatter": 6}


def test_a_pass_waits_for_the_latest_arrival_of_its_tiles(engine):
    """The first tile comes from memory and is late; the second, gathered after it, comes from nearby."""
    rows = [{"flags": UNIT | INPUT | OUTPUT, "read": 2}, {"flags": LAST, "gather_port": 3, "compute": 1}]
    ran = engine((rows, {}), latency=40)
    assert ran.times("gather_end") == [2, 5]
    assert ran.times("compute_begin") == [2 + 40] * 2
    assert ran.causes() == {"gather_transfer": 5, "gather_latency": 37, "compute": 1}


# The memory port.


@pytest.mark.parametrize(
    ("setup", "read_grant", "write_grant"), [(4, 4, 7), (5, 9, 5), (6, 9, 5)], ids=["before", "same cycle", "after"]
)
def test_scatter_goes_before_gather_in_the_same_cycle_only(engine, setup, read_grant, write_grant):
    writes, reads = {"compute": 5, "write": 4}, {"gather": setup, "read": 3}
    ran = engine(([writes, reads], {}))
    assert ran.times("write_request")[0] == 5
    assert ran.times("request")[1] == setup
    assert (ran.times("grant")[1], ran.times("write_grant")[0]) == (read_grant, write_grant)


def test_another_cores_scatter_goes_before_a_lower_cores_gather(engine):
    ran = engine(([{"gather": 5, "read": 3}, {"compute": 5, "write": 4}], {}), cores=2)
    assert ran.times("write_grant")[1] == 5
    assert ran.times("grant")[0] == 9


def test_the_lower_core_goes_first_in_the_same_cycle(engine):
    ran = engine(([{"read": 3}] * 3, {}), cores=3)
    assert ran.times("core") == [0, 1, 2]
    assert ran.times("grant") == [0, 3, 6]
    assert ran.causes(0, 2) == {"gather_queue": 6, "gather_transfer": 3}


def test_who_asked_earlier_goes_first_whatever_its_core(engine):
    ran = engine(([{"gather": 3, "read": 1}, {"gather": 2, "read": 1}, {"read": 10}], {}), cores=3)
    assert ran.times("grant") == [11, 10, 0]


def test_the_port_is_free_in_the_cycle_a_transfer_ends(engine):
    for setup, grant in ((9, 10), (10, 10), (11, 11)):
        ran = engine(([{"read": 10}, {"gather": setup, "read": 1}], {}), cores=2)
        assert ran.times("grant") == [0, grant]


def test_a_transfer_of_nothing_never_waits_for_the_port(engine):
    ran = engine(([{"read": 100}, {"gather_port": 2, "compute": 3, "scatter_port": 4}], {}), cores=2)
    assert ran.times("scatter_end")[1] == 9
    assert ran.port_busy == [100]
    assert ran.causes(0, 1) == {"gather_transfer": 2, "compute": 3, "scatter": 4, "barrier": 91}


def test_latency_is_pipelined(engine):
    ran = engine(([{"read": 5, "compute": 1}] * 4, {}), latency=100, halves=4)
    assert ran.times("grant") == [0, 5, 10, 15]
    assert ran.times("compute_begin") == [105, 110, 115, 120]
    assert ran.ends == [121]


def test_buffer_parts_bound_the_reads_in_flight(engine):
    """With two parts the third read must wait until the first tile is computed: latency is hidden for one tile only."""
    ran = engine(([{"read": 5, "compute": 1}] * 4, {}), latency=100, halves=2)
    assert ran.times("grant") == [0, 5, 106, 111]
    assert ran.times("compute_begin") == [105, 110, 211, 216]


def test_grants_follow_requests_on_a_busy_port(engine):
    """Two cores that only read share the port in turn: the sum of all reads, without a gap."""
    ran = engine(([{"read": 7}] * 6, {}), cores=2)
    assert sorted(ran.times("grant")) == [0, 7, 14, 21, 28, 35]
    assert ran.times("core") == [0, 1] * 3
    assert ran.times("grant") == [0, 7, 14, 21, 28, 35]
    assert ran.ends == [6 * 7]


# Weights.


def test_weights_come_before_the_tile_and_the_array_waits_for_them(engine):
    row = {"weight_port": 4, "weight_read": 6, "gather_port": 2, "compute": 3}
    ran = engine(([row, row], {}), latency=10)
    assert ran.times("weights_end") == [6, 8]  # the second tile holds them already
    assert ran.times("gather_end") == [8, 10]
    assert ran.times("compute_begin") == [6 + 10, 19]
    assert ran.causes() == {"weights": 6 + 8, "gather_transfer": 2, "compute": 6}
    assert ran.port_busy == [6]


def test_a_change_of_group_fetches_again(engine):
    def row(group):
        return {"group": group, "weight_port": 5, "compute": 1}

    ran = engine(([row(0), row(0), row(1), row(0)], {}), halves=4)
    assert ran.times("weights_end") == [5, 5, 10, 15]
    assert ran.ends == [16]


def test_weights_of_no_cycles_are_there(engine):
    assert engine(([{"group": 0, "compute": 1}, {"group": 1, "compute": 1}], {})).ends == [2]


@pytest.mark.parametrize("halves", [1, 2])
def test_a_weight_part_is_free_when_the_last_pass_that_uses_it_is_done(engine, halves):
    rows = [{"group": group, "weight_port": 1, "compute": 10} for group in (0, 0, 1, 2)]
    ran = engine((rows, {}), halves=halves)
    if halves == 1:
        # pass 2 needs an input part (free at 21, when pass 1 is done), then the weights' one part (the same cycle)
        assert ran.times("compute_begin") == [1, 11, 22, 33]
    else:
        # group 1 is fetched beside group 0 as soon as pass 0 frees an input part; group 2 needs group 0's part
        assert ran.times("weights_end") == [1, 1, 12, 22]
        assert ran.times("compute_begin") == [1, 11, 21, 31]


def test_weights_and_inputs_use_the_same_port_in_turn(engine):
    row = {"weight_read": 6, "read": 2, "compute": 1}
    ran = engine(([row, row], {}), cores=2)
    assert ran.times("weights_end") == [6, 12]
    assert ran.times("request") == [6, 12]
    assert ran.times("grant") == [12, 14]  # core 1 asked at 0, core 0's second request at 6


def test_every_core_fetches_weights_of_its_own(engine):
    row = {"weight_port": 6, "compute": 1}
    assert engine(([row] * 4, {}), cores=2).times("weights_end") == [6, 6, 6, 6]


def test_shared_weights_are_fetched_once_and_waited_for_by_all(engine):
    """Core 0 is granted the port and fetches for both; core 1 goes on gathering, and waits for what core 0 fetches."""
    row = {"flags": WHOLE | SHARED, "weight_port": 3, "weight_read": 8, "gather_port": 2, "compute": 1}
    ran = engine(([row] * 4, {}), cores=2, latency=5)
    assert ran.port_busy == [8]
    assert ran.times("weights_end") == [8, 0, 10, 2]
    assert ran.times("gather_end") == [10, 2, 12, 4]
    assert ran.times("compute_begin") == [13, 13, 14, 14]
    assert ran.causes(core=1) == {"gather_transfer": 2, "weights": 11, "compute": 2}


def test_a_request_for_weights_ends_when_another_core_is_granted_the_port_for_them(engine):
    """Core 0 reads from 4 to 24; core 1 asks at 7 for the weights that core 0 asks for at 24: core 1 is granted."""
    first = {"flags": WHOLE | SHARED, "group": 0, "gather": 4, "read": 20, "compute": 1}
    slow = {"flags": WHOLE | SHARED, "group": 0, "gather": 7, "compute": 1}
    then = {"flags": WHOLE | SHARED, "group": 1, "weight_read": 6, "compute": 1}
    ran = engine(([first, slow, then, then], {}), cores=2)
    assert ran.times("weights_end") == [0, 0, 24, 30]
    assert ran.times("compute_begin") == [24, 7, 30, 30]
    assert ran.port_busy == [26]


# Prefetch of the next stage's weights.

FIRST = {"gather_port": 3, "compute": 20}
SECOND = {"weight_port": 8, "weight_read": 8, "gather_port": 1, "compute": 2}
AHEAD = {"prefetch_port": 8, "prefetch_read": 8, "launch": 1}


def test_weights_wait_for_their_stage_unless_prefetched(engine):
    ran = engine(([FIRST], {}), ([SECOND], AHEAD), latency=4)
    assert ran.ends == [23, 23 + 1 + 8 + 4 + 2]
    assert ran.port_busy == [0, 8]
    assert ran.causes(1) == {"launch": 1, "weights": 8 + 3, "gather_transfer": 1, "compute": 2}


def test_prefetched_weights_are_there_when_the_stage_begins(engine):
    """They are asked for when the gather unit has nothing left, at cycle 3, and arrive at 3 + 8 + 4."""
    ran = engine(([FIRST], {}), ([SECOND], AHEAD), latency=4, prefetch=True)
    assert ran.ends == [23, 23 + 1 + 1 + 2]
    assert ran.port_busy == [8, 0]
    assert ran.causes(1) == {"launch": 1, "gather_transfer": 1, "compute": 2}


def test_a_prefetch_under_way_is_waited_for(engine):
    long = {"prefetch_port": 30, "prefetch_read": 30}
    ran = engine(([FIRST], {}), ([SECOND | {"weight_read": 30}], long), latency=4, prefetch=True)
    assert ran.times("weights_end")[1] == 3 + 30
    assert ran.times("compute_begin")[1] == 3 + 30 + 4
    assert ran.ends == [23, 39]


def test_the_first_stage_has_nobody_to_prefetch_for_it(engine):
    ran = engine(([SECOND], AHEAD), prefetch=True)
    assert ran.times("weights_end") == [1 + 8]


def test_a_prefetch_of_another_group_is_fetched_again(engine):
    ran = engine(([FIRST], {}), ([SECOND | {"group": 1}], AHEAD), latency=4, prefetch=True)
    assert ran.times("weights_end")[1] == 24 + 8


def test_a_prefetch_needs_a_free_part(engine):
    """With one part, the weights in use must have done their work first, at cycle 5 + 3 + 20."""
    with_weights = FIRST | {"weight_port": 5}
    ran = engine(([with_weights], {}), ([SECOND], AHEAD), latency=4, prefetch=True, halves=1)
    assert ran.ends[0] == 28
    assert ran.times("weights_end")[1] == 28 + 8
    assert ran.times("compute_begin")[1] == 28 + 8 + 4


def test_a_core_without_tiles_prefetches_too(engine):
    ran = engine(([FIRST], {}), ([SECOND] * 2, AHEAD), prefetch=True, cores=2)
    assert ran.port_busy == [8, 0]  # core 1 fetches at 0 for both; core 0 has them when it is ready, at 3
    assert ran.times("compute_begin")[1:] == [25, 25]


# The gate.


@pytest.mark.parametrize(("compute", "stream", "expected"), [(20, 8, 20), (5, 8, 11), (11, 8, 11), (12, 8, 12)])
def test_a_gate_takes_the_longer_of_its_elements_and_its_stream(engine, compute, stream, expected):
    ran = engine(([{"compute": 1}], {"launch": 2, "gate": compute, "gate_read": stream}), latency=3)
    assert ran.times("gather_begin") == [2 + expected]
    assert ran.causes() == {"launch": 2, "gate": expected, "compute": 1}
    assert ran.port_busy == [8]


def test_a_gates_stream_waits_for_weights_asked_for_earlier(engine):
    """The prefetch asks at cycle 3 and holds the port until 33; the gate asks at 24 and streams from 33 to 38."""
    stages = ([FIRST], {}), ([{"compute": 1}], {"prefetch_read": 30, "launch": 1, "gate": 2, "gate_read": 5})
    assert engine(*stages, prefetch=True).times("gather_begin")[1] == 38
    assert engine(*stages).times("gather_begin")[1] == 29


# The index unit.


def test_tiles_are_gathered_once_their_numbers_are_known(engine):
    ran = engine(([{"index": 5, "gather_port": 1}] * 3, {"index": 7}))
    assert ran.times("issue_begin") == [12, 17, 22]
    assert ran.causes() == {"index": 7 + 5 * 3 - 2, "gather_transfer": 3}  # scatter and compute take nothing


def test_the_index_unit_runs_ahead_of_a_slow_gather(engine):
    ran = engine(([{"index": 5, "gather_port": 9}] * 3, {}), halves=3)
    assert ran.times("issue_begin") == [5, 14, 23]


def test_every_core_has_an_index_unit_with_static_dealing(engine):
    ran = engine(([{"index": 5}] * 4, {}), cores=2)
    assert ran.times("issue_begin") == [5, 5, 10, 10]


def test_one_index_unit_serves_all_with_dynamic_dealing(engine):
    ran = engine(([{"index": 5}] * 4, {}), cores=2, dynamic=True)
    assert ran.times("issue_begin") == [5, 10, 15, 20]


# Cores.

UNEVEN = [{"gather_port": time, "compute": 1} for time in (10, 1, 1, 1)]


def test_static_dealing_goes_round(engine):
    ran = engine((UNEVEN, {}), cores=2, halves=1)
    assert ran.times("core") == [0, 1, 0, 1]
    assert ran.ends == [10 + 1 + 1 + 1]
    assert ran.causes(0, 1) == {"gather_transfer": 2, "compute": 2, "barrier": 13 - 4}


def test_dynamic_dealing_goes_to_who_is_free(engine):
    ran = engine((UNEVEN, {}), cores=2, halves=1, dynamic=True)
    assert ran.times("core") == [0, 1, 1, 1]
    assert ran.times("gather_begin") == [0, 0, 2, 4]
    assert ran.ends == [11]
    assert ran.causes(0, 1) == {"gather_transfer": 3, "compute": 3, "barrier": 11 - 6}


def test_dynamic_dealing_goes_to_the_lower_core_in_the_same_cycle(engine):
    ran = engine(([{"gather_port": 4}] * 6, {}), cores=3, dynamic=True)
    assert ran.times("core") == [0, 1, 2, 0, 1, 2]


def test_a_unit_stays_on_its_core(engine):
    begins, follows = {"flags": WHOLE, "compute": 2}, {"flags": LAST | INPUT, "compute": 2}
    for dynamic in (False, True):
        ran = engine(([begins, follows, begins, follows], {}), cores=2, dynamic=dynamic)
        assert ran.times("core") == [0, 0, 1, 1]
        assert ran.times("compute_begin") == [0, 2, 0, 2]


def test_all_cores_wait_at_the_end_of_a_layer(engine):
    rows = [{"compute": 10}, {"compute": 25}]
    ran = engine((rows, {}), (rows, {"launch": 5}), cores=2)
    assert ran.ends == [25, 55]
    assert ran.causes(0, 0) == {"compute": 10, "barrier": 15}
    assert ran.causes(0, 1) == {"compute": 25}
    assert ran.times("compute_begin")[2:] == [30, 30]
    assert [int(cycle) for cycle in ran.counters.begin] == [0, 25]
