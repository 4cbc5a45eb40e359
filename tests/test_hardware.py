"""Do machine files load, say where their numbers come from, survive a round trip, and fail well?"""

import re
import tomllib
from importlib import resources
from pathlib import Path

import pytest
from pydantic import ValidationError

from skipsim.errors import InputError
from skipsim.hwmodels.dram import dram_part
from skipsim.hwmodels.hardware import Hardware, hardware_keys, load_hardware, machines, ratio

CATALOG = resources.files("skipsim.hwmodels") / "catalog"
TABLES = "array, buffers, clock_hz, cores, dram, energy, gate, gather, index, layer, "
TABLES += "name, precision, processor, scatter, schedule, source"
AT_LEAST = "{}: input should be greater than or equal to {}, got {}"
ABOVE = "{}: input should be greater than {}, got {}"


def unknown(key: str, nearest: str) -> str:
    return f"unknown key {key!r}; did you mean {nearest!r}? keys start with: {TABLES}"


def catalog_text(name: str) -> str:
    return (CATALOG / f"{name}.toml").read_text(encoding="utf-8")


def edited(path: Path, *changes: tuple[str, str]) -> Path:
    text = catalog_text("edge-npu")
    for old, new in changes:
        assert text.count(old) == 1, f"{old!r} must stand exactly once in edge-npu.toml"
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")
    return path


def message(path: Path, *changes: tuple[str, str]) -> str:
    """Return what loading the changed edge-npu says, without the file's name."""
    with pytest.raises(InputError) as caught:
        load_hardware(edited(path, *changes))
    text = str(caught.value)
    prefix = f"hardware file {str(path)!r}: "
    assert text.startswith(prefix)
    assert "\n" not in text
    return text.removeprefix(prefix)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "machine.toml"


def test_the_three_generic_machines_are_there():
    assert {"auto-npu", "edge-npu", "systolic-32x32"} <= set(machines())
    assert machines() == sorted(machines())


@pytest.mark.parametrize("name", machines())
def test_a_catalog_machine_loads_under_its_own_name(name):
    assert load_hardware(name).name == name


@pytest.mark.parametrize("name", [name for name in machines() if load_hardware(name).processor is None])
def test_every_number_says_where_it_comes_from(name):
    number = re.compile(r"^(?P<key>\w+) = (?P<value>[-+]?(?:[0-9][0-9_.eE+-]*|inf))(?P<comment>.*)$")
    lines = catalog_text(name).splitlines()
    found = [match for line in lines if (match := number.match(line))]
    for match in found:
        comment = match["comment"]
        assert re.match(r"  # (assumed: \S.{4,}|source: \S.*[,:] \S.*)$", comment), (
            f"{name}: {match['key']}: {comment!r}"
        )
    # no number escaped the pattern: as many as the parser sees
    data = tomllib.loads("\n".join(lines))
    leaves = [leaf for value in data.values() for leaf in (value.values() if isinstance(value, dict) else [value])]
    assert len(found) == sum(isinstance(leaf, int | float) and not isinstance(leaf, bool) for leaf in leaves) > 0


@pytest.mark.parametrize("name", machines())
def test_a_stream_promises_no_more_than_its_part_can_give(name):
    machine = load_hardware(name)
    if machine.dram.part is None:  # published machines: the rate itself has a source
        assert machine.dram.rule == "ideal" or not machine.source.startswith("assumed")
        return
    part, channels = dram_part(machine.dram.part), machine.dram.channels
    assert channels is not None
    sustained = channels * part.stream_bytes_per_second / machine.clock_hz
    assert 0.5 * sustained < machine.dram.bytes_per_cycle < sustained
    assert machine.dram.burst_bytes == part.burst_bytes
    assert machine.dram.latency_cycles > part.nanoseconds(part.row_hit_clocks) * machine.clock_hz / 1e9


@pytest.mark.parametrize(
    ("name", "tera_operations", "sram_mib"),
    [("edge-npu", 4.096, 1), ("auto-npu", 65.536, 14), ("systolic-32x32", 2.048, float("inf"))],
)
def test_a_machine_is_as_large_as_its_description_says(name, tera_operations, sram_mib):
    machine = load_hardware(name)
    macs = machine.cores * machine.array.rows * machine.array.cols
    assert 2 * macs * machine.clock_hz == tera_operations * 1e12
    buffers = machine.buffers
    per_core = buffers.input_bytes + buffers.weight_bytes + buffers.output_bytes
    assert machine.cores * per_core + buffers.global_bytes == sram_mib * 2**20


@pytest.mark.parametrize("name", machines())
def test_saving_and_loading_changes_nothing(name, path):
    machine = load_hardware(name)
    machine.save(path)
    assert load_hardware(path) == machine
    assert load_hardware(str(path)) == machine


def test_saving_keeps_quotes_backslashes_infinities_and_changed_numbers(path):
    machine = load_hardware("edge-npu").replace(
        **{"source": 'a "quoted"\\path\nsecond line', "buffers.input_bytes": float("inf"), "energy.mac_pj": 0.25}
    )
    machine.save(path)
    again = load_hardware(path)
    assert again.source == 'a "quoted"\\path\nsecond line'
    assert again.buffers.input_bytes == float("inf")
    assert again.energy.mac_pj == 0.25
    assert again == machine


def test_replace_returns_a_changed_copy():
    machine = load_hardware("edge-npu")
    changed = machine.replace(**{"dram.bytes_per_cycle": 8, "cores": 4})
    assert (changed.dram.bytes_per_cycle, changed.cores) == (8, 4)
    assert (machine.dram.bytes_per_cycle, machine.cores) == (13.65, 2)
    assert changed.replace(**{"dram.bytes_per_cycle": 13.65, "cores": 2}) == machine


def test_a_machine_cannot_be_changed_in_place():
    with pytest.raises(ValidationError, match="frozen"):
        load_hardware("edge-npu").cores = 3  # type: ignore[misc]


def test_rates_become_exact_fractions():
    assert ratio(13.65) == (273, 20)
    assert ratio(163.84) == (4096, 25)
    assert ratio(32.0) == (32, 1)
    assert ratio(float("inf")) == (0, 0)


def test_every_key_can_be_named():
    keys = hardware_keys()
    assert len(keys) == len(set(keys))
    assert {"clock_hz", "cores", "dram.bytes_per_cycle", "energy.leakage_mw", "schedule.merge_halo"} <= set(keys)
    tables = {key.split(".")[0] for key in keys}
    assert ", ".join(sorted(tables)) == TABLES


# Errors: object, key, rule, value given, choices, on one line.


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("pack_tiles = true", "pack_tile = true", unknown("array.pack_tile", "array.pack_tiles")),
        ("\nrows = 32", "\nrow = 32", unknown("array.row", "array.rows") + " (and 1 more)"),
        ("[gather]", "[gatherer]", unknown("gatherer", "gather.source") + " (and 1 more)"),
        ("\nrows = 32", '\nrows = "32"', "array.rows: input should be a valid integer, got '32'"),
        ("\nrows = 32", "\nrows = 32.0", "array.rows: input should be a valid integer, got 32.0"),
        ("\nrows = 32", "\nrows = true", "array.rows: input should be a valid integer, got True"),
        ("\nrows = 32", "\nrows = [32]", "array.rows: input should be a valid integer, got [32]"),
        ("\nrows = 32", "\nrows = 0", AT_LEAST.format("array.rows", 1, 0)),
        ("\nrows = 32", "\n# rows = 32", "key 'array.rows' is missing"),
        ("cores = 2", "cores = 0", AT_LEAST.format("cores", 1, 0)),
        ("cores = 2", "cores = 1025", "cores: input should be less than or equal to 1024, got 1025"),
        ("launch_cycles = 500", "launch_cycles = -1", AT_LEAST.format("layer.launch_cycles", 0, -1)),
        ("= 13.65", "= 0", ABOVE.format("dram.bytes_per_cycle", 0, 0)),
        ("= 13.65", "= -1.5", ABOVE.format("dram.bytes_per_cycle", 0, -1.5)),
        ("= 13.65", "= nan", ABOVE.format("dram.bytes_per_cycle", 0, "nan")),
        ("= 13.65", "= true", "dram.bytes_per_cycle: must be a number, got True"),
        ("= 13.65", '= "13"', "dram.bytes_per_cycle: must be a number, got '13'"),
        ("= 13.65", "= inf", 'dram: rule = "stream" needs a finite bytes_per_cycle'),
        ("input_bytes = 131072", "input_bytes = 1.5", "buffers.input_bytes: must be a whole number or inf, got 1.5"),
        ("input_bytes = 131072", "input_bytes = 0", ABOVE.format("buffers.input_bytes", 0, 0)),
        (
            '"output_stationary"',
            '"no_stationary"',
            "array.dataflow: input should be 'output_stationary', 'weight_stationary', 'input_stationary',"
            " 'dot_product' or 'row_stationary', got 'no_stationary'",
        ),
        (
            'placement = "fused"',
            'placement = "fuse"',
            "gate.placement: input should be 'none', 'separate', 'fused' or 'array', got 'fuse'",
        ),
        ("vector_macs_per_cycle = 64", "# none", 'array: depthwise = "vector" needs vector_macs_per_cycle'),
        ('source = "assumed: int8 inference"', "# none", "key 'precision.source' is missing"),
        (
            'source = "assumed: int8 inference"',
            'source = ""',
            "precision.source: string should have at least 1 character, got ''",
        ),
        ("technology_nm = 16", "technology_nm = 2", AT_LEAST.format("energy.technology_nm", 3, 2)),
    ],
)
def test_a_bad_value_is_named_with_its_key_rule_and_value(path, old, new, said):
    assert message(path, (old, new)) == said


def test_one_error_is_shown_and_the_others_counted(path):
    said = message(path, ("\nrows = 32", "\nrows = 0"), ("\ncols = 32", "\ncols = -3"))
    assert said == AT_LEAST.format("array.rows", 1, 0) + " (and 1 more)"


def test_broken_toml_says_where(path):
    said = message(path, ("\nrows = 32", "\nrows = = 32"))
    line = 1 + catalog_text("edge-npu").split("\nrows = 32")[0].count("\n") + 1
    assert said == f"not valid TOML: Invalid value (at line {line}, column 8)"


def test_an_unknown_machine_names_the_nearest():
    with pytest.raises(InputError) as caught:
        load_hardware("edge-npuu")
    choices = ", ".join(machines())
    assert str(caught.value) == (
        f"hardware 'edge-npuu' is unknown; did you mean 'edge-npu'? choices: {choices}; or the path of a .toml file"
    )


@pytest.mark.parametrize("name", ["nowhere/machine.toml", "machine-that-is-not-there.toml"])
def test_a_missing_file_is_named(name):
    with pytest.raises(InputError) as caught:
        load_hardware(name)
    assert str(caught.value) == f"hardware file {name!r}: no such file"


def test_a_binary_file_is_no_machine(path):
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError) as caught:
        load_hardware(path)
    assert str(caught.value) == f"hardware file {str(path)!r}: not a text file"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"dram.byte_per_cycle": 8}, unknown("dram.byte_per_cycle", "dram.bytes_per_cycle")),
        ({"array": 8}, unknown("array", "array.rows")),
        ({"array.rows.high": 8}, unknown("array.rows.high", "array.rows")),
        ({"array.rows": 0}, AT_LEAST.format("array.rows", 1, 0)),
        ({"energy.mac_pj": -1}, AT_LEAST.format("energy.mac_pj", 0, -1)),
        ({"dram.rule": "banked", "dram.channels": None}, 'dram: rule = "banked" needs part and channels'),
    ],
)
def test_a_bad_replacement_names_the_machine(change, said):
    with pytest.raises(InputError) as caught:
        load_hardware("edge-npu").replace(**change)
    assert str(caught.value) == f"hardware 'edge-npu': {said}"


def test_a_failed_save_leaves_the_old_file(path, monkeypatch):
    load_hardware("edge-npu").save(path)
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space left"):
        load_hardware("auto-npu").save(path)
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_only_the_schedule_may_be_left_out(path):
    without = catalog_text("edge-npu").split("[schedule]")
    path.write_text(without[0] + "[energy]" + without[1].split("[energy]")[1], encoding="utf-8")
    assert load_hardware(path).schedule.model_dump(exclude={"source"}) == {
        "distribution": "static",
        "merge_halo": False,
        "prefetch_weights": False,
    }
    optional = {key for key, field in Hardware.model_fields.items() if not field.is_required()}
    assert optional == {"schedule", "processor"}
