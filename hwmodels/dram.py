"""Dram: organisation and timing of one memory part, and what follows from them in closed form.

All timings are integers of the part's own command clock (CK), not of the accelerator's. JEDEC's letters: `rcd` is tRCD.
"""

from __future__ import annotations

from dataclasses import dataclass

from skipsim.errors import InputError, nearest


@dataclass(frozen=True, kw_only=True)
class Dram:
    """One channel of a memory part. Capacity and bandwidth of a system are `channels` times these."""

    name: str
    source: str  # organisation and timing: document and place
    data_rate_mts: int  # million transfers per second and data pin
    bus_bits: int  # data pins of one channel
    beats_per_clock: int  # transfers per data pin and command clock
    burst_length: int  # transfers per data pin and column command
    bank_groups: int
    banks_per_group: int
    rows: int  # of one bank
    row_bytes: int  # of one bank, over all devices of the channel: what one activation opens
    cl_clocks: int  # column read to data, as set in the mode register (CL or RL)
    output_delay_clocks: int  # added by parts without a DLL: tDQSCK or tWCK2DQO, maximum
    cwl_clocks: int  # column write to data (CWL or WL)
    rcd_clocks: int  # activate to column command
    rp_clocks: int  # precharge to activate, one bank
    ras_clocks: int  # activate to precharge
    rtp_clocks: int  # column read to precharge
    wr_clocks: int  # end of write data to precharge
    wtr_s_clocks: int  # end of write data to column read, other bank group
    wtr_l_clocks: int  # ... same bank group
    rtw_clocks: int  # column read to column write
    ccd_s_clocks: int  # column command to column command, other bank group
    ccd_l_clocks: int  # ... same bank group
    rrd_s_clocks: int  # activate to activate, other bank group
    rrd_l_clocks: int  # ... same bank group
    faw_clocks: int  # window that may hold four activates
    rfc_clocks: int  # one refresh of all banks
    refi_clocks: int  # between two of them, on average
    energy_pj_per_bit: float  # array, interface and an ordinary share of activations
    energy_source: str

    @property
    def clock_hz(self) -> int:
        """Frequency of the command clock."""
        return self.data_rate_mts * 1_000_000 // self.beats_per_clock

    @property
    def banks(self) -> int:
        """Banks of one channel."""
        return self.bank_groups * self.banks_per_group

    @property
    def capacity_bytes(self) -> int:
        """Bytes of one channel."""
        return self.banks * self.rows * self.row_bytes

    @property
    def burst_bytes(self) -> int:
        """Bytes that one column command moves: the smallest transfer."""
        return self.burst_length * self.bus_bits // 8

    @property
    def burst_clocks(self) -> int:
        """Clocks that one burst occupies the data bus."""
        return self.burst_length // self.beats_per_clock

    @property
    def bytes_per_clock(self) -> int:
        """Bytes that the data bus moves per command clock."""
        return self.beats_per_clock * self.bus_bits // 8

    @property
    def peak_bytes_per_second(self) -> int:
        """Bandwidth of one channel with the data bus never idle."""
        return self.data_rate_mts * 1_000_000 * self.bus_bits // 8

    @property
    def rc_clocks(self) -> int:
        """Activate to activate of one bank: tRC = tRAS + tRP."""
        return self.ras_clocks + self.rp_clocks

    @property
    def row_hit_clocks(self) -> int:
        """Latency of a read whose row is open: column command to last byte."""
        return self.cl_clocks + self.output_delay_clocks + self.burst_clocks

    @property
    def row_miss_clocks(self) -> int:
        """Latency of a read from a closed bank: activate to last byte."""
        return self.rcd_clocks + self.row_hit_clocks

    @property
    def row_conflict_clocks(self) -> int:
        """Latency of a read from a bank that holds another row: precharge to last byte."""
        return self.rp_clocks + self.row_miss_clocks

    @property
    def read_cycle_clocks(self) -> int:
        """Activate to activate of one bank that is opened for a single read."""
        return max(self.rc_clocks, self.rcd_clocks + self.rtp_clocks + self.rp_clocks)

    @property
    def refresh_share(self) -> float:
        """Share of time in which the channel refreshes all banks and serves nobody."""
        return self.rfc_clocks / self.refi_clocks

    @property
    def stream_bytes_per_second(self) -> float:
        """Bandwidth of reads that walk through rows in order, bank groups in turn: all but the refreshes."""
        clocks = max(self.burst_clocks, self.ccd_s_clocks)
        return self.burst_bytes * self.clock_hz / clocks * (1 - self.refresh_share)

    @property
    def random_bytes_per_second(self) -> float:
        """Bandwidth of single-burst reads, every one in another row, spread evenly over the banks.

        The slowest of: data bus, column commands, activates (tRRD, four per tFAW) and each bank's own cycle.
        """
        activate = max(self.rrd_s_clocks, self.faw_clocks / 4, self.read_cycle_clocks / self.banks)
        clocks = max(self.burst_clocks, self.ccd_s_clocks, activate)
        return self.burst_bytes * self.clock_hz / clocks * (1 - self.refresh_share)

    def nanoseconds(self, clocks: float) -> float:
        """Convert command clocks to nanoseconds."""
        return clocks * 1e9 / self.clock_hz


_LPDDR4X_4266 = Dram(
    name="LPDDR4X-4266",
    source="JEDEC JESD209-4, x16 channel of 8 Gb, as in tukl-msd/DRAMSys"
    " configs/memspec/JEDEC_512Mbx16_LPDDR4-4266.json, rounded anew at 2133 MHz;"
    " tCK 468 ps and RL 36 also in Micron 200b z11m LPDDR4/LPDDR4X data sheet, speed grade -046",
    data_rate_mts=4266,
    bus_bits=16,
    beats_per_clock=2,
    burst_length=16,
    bank_groups=1,
    banks_per_group=8,
    rows=65536,
    row_bytes=2048,
    cl_clocks=36,
    output_delay_clocks=8,  # tDQSCK, at most 3.5 ns
    cwl_clocks=18,
    rcd_clocks=39,  # 18 ns
    rp_clocks=39,  # 18 ns, per bank
    ras_clocks=90,  # 42 ns
    rtp_clocks=16,  # 7.5 ns
    wr_clocks=39,  # 18 ns
    wtr_s_clocks=22,  # 10 ns; no bank groups
    wtr_l_clocks=22,
    rtw_clocks=36,  # RL + tDQSCK + BL/2 - WL + write preamble of 2
    ccd_s_clocks=8,
    ccd_l_clocks=8,
    rrd_s_clocks=22,  # 10 ns
    rrd_l_clocks=22,
    faw_clocks=86,  # 40 ns
    rfc_clocks=598,  # 280 ns, all banks, 8 Gb per channel
    refi_clocks=8327,  # 3.904 us
    energy_pj_per_bit=6.4,
    energy_source="LPDDR4's 8 pJ/bit (Accelergy cacti plug-in, type2energy) less 20 %"
    " (SK hynix press release of 9 January 2017 on LPDDR4X)",
)

_LPDDR5_6400 = Dram(
    name="LPDDR5-6400",
    source="JEDEC JESD209-5, x16 channel of 8 Gb, bank group mode, BL16, WCK:CK 4:1, as in CMU-SAFARI/ramulator2"
    " python/ramulator/dram/lpddr5.py and gem5 src/python/gem5/components/memory/dram_interfaces/lpddr5.py",
    data_rate_mts=6400,
    bus_bits=16,
    beats_per_clock=8,
    burst_length=16,
    bank_groups=4,
    banks_per_group=4,
    rows=32768,
    row_bytes=2048,
    cl_clocks=17,  # RL, set 0
    output_delay_clocks=2,  # tWCK2DQO, at most 1.6 ns
    cwl_clocks=9,  # WL, set A
    rcd_clocks=15,  # 18 ns
    rp_clocks=15,  # 18 ns, per bank
    ras_clocks=34,  # 42 ns
    rtp_clocks=6,  # 7.5 ns
    wr_clocks=28,  # 34 ns
    wtr_s_clocks=5,  # 6.25 ns
    wtr_l_clocks=10,  # 12 ns
    rtw_clocks=14,  # RL + same-group burst of 4 + tWCK2DQO - WL
    ccd_s_clocks=2,
    ccd_l_clocks=4,
    rrd_s_clocks=4,  # 5 ns
    rrd_l_clocks=4,
    faw_clocks=16,  # 20 ns
    rfc_clocks=168,  # 210 ns, all banks, 8 Gb
    refi_clocks=3124,  # 3.906 us
    energy_pj_per_bit=4.5,
    energy_source="LPDDR4X less 30 % (Samsung press release of 17 July 2018 on 8Gb LPDDR5);"
    " Micron MT62F data sheet, 315b Rev. D, table 7, read burst at 6400 Mb/s:"
    " 372 mA x 1.05 V + 7.2 mA x 1.8 V + 106 mA x 0.5 V = 4.46 pJ/bit",
)

_DDR4_3200 = Dram(
    name="DDR4-3200",
    source="JEDEC JESD79-4, speed bin 3200AA, 64-bit channel of eight x8 devices of 8 Gb, as in CMU-SAFARI/ramulator2"
    " python/ramulator/dram/ddr4.py and umd-memsys/DRAMsim3 configs/DDR4_8Gb_x8_3200.ini",
    data_rate_mts=3200,
    bus_bits=64,
    beats_per_clock=2,
    burst_length=8,
    bank_groups=4,
    banks_per_group=4,
    rows=65536,
    row_bytes=8192,  # 1 KiB in each of eight devices
    cl_clocks=22,
    output_delay_clocks=0,
    cwl_clocks=16,
    rcd_clocks=22,  # 13.75 ns
    rp_clocks=22,  # 13.75 ns
    ras_clocks=52,  # 32 ns
    rtp_clocks=12,  # 7.5 ns
    wr_clocks=24,  # 15 ns
    wtr_s_clocks=4,  # 2.5 ns
    wtr_l_clocks=12,  # 7.5 ns
    rtw_clocks=12,  # CL + BL/2 - CWL + preamble and turnaround of 2
    ccd_s_clocks=4,
    ccd_l_clocks=8,  # 5 ns
    rrd_s_clocks=4,  # 2.5 ns, 1 KiB page
    rrd_l_clocks=8,  # 4.9 ns
    faw_clocks=34,  # 21 ns
    rfc_clocks=560,  # 350 ns, 8 Gb
    refi_clocks=12480,  # 7.8 us
    energy_pj_per_bit=20.3,
    energy_source="Jouppi et al., Ten Lessons From Three Generations Shaped Google's TPUv4i, ISCA 2021, table 2:"
    " 1300 pJ per 64 bits",
)

_HBM2E_3200 = Dram(
    name="HBM2E-3200",
    source="JEDEC JESD235D, 64-bit pseudo channel of 8 Gb, tRRD and refresh as in CMU-SAFARI/ramulator2"
    " python/ramulator/dram/hbm2.py; assumed: the other times in nanoseconds are those of its HBM2_2000Mbps preset,"
    " because no vendor publishes HBM2E timings",
    data_rate_mts=3200,
    bus_bits=64,
    beats_per_clock=2,
    burst_length=4,
    bank_groups=4,
    banks_per_group=4,
    rows=65536,
    row_bytes=1024,
    cl_clocks=23,  # 14 ns
    output_delay_clocks=0,
    cwl_clocks=8,  # 5 ns
    rcd_clocks=23,  # 14 ns for reads; writes could start 2 ns earlier
    rp_clocks=23,  # 14 ns
    ras_clocks=55,  # 34 ns
    rtp_clocks=8,  # 5 ns
    wr_clocks=26,  # 16 ns
    wtr_s_clocks=10,  # 6 ns
    wtr_l_clocks=13,  # 8 ns
    rtw_clocks=19,  # CL + BL/2 + 2 - CWL
    ccd_s_clocks=2,
    ccd_l_clocks=6,  # 3.33 ns, as the 2400 and 3800 Mb/s presets
    rrd_s_clocks=7,  # 4 ns
    rrd_l_clocks=7,
    faw_clocks=24,  # 15 ns
    rfc_clocks=560,  # 350 ns, 8 Gb
    refi_clocks=6240,  # 3.9 us
    energy_pj_per_bit=3.9,
    energy_source="O'Connor et al., Fine-Grained DRAM, MICRO 2017 (HBM2); assumed: HBM2E costs the same per bit",
)

PARTS = {part.name: part for part in (_LPDDR4X_4266, _LPDDR5_6400, _DDR4_3200, _HBM2E_3200)}


def dram_part(name: str) -> Dram:
    """Return the part of that name; InputError names the nearest if there is none."""
    if name not in PARTS:
        raise InputError(f"dram part {name!r} is unknown; {nearest(name, PARTS)}")
    return PARTS[name]
