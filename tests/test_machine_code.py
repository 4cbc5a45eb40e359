"""Do the kernels work on machines without wide vectors, and do they keep what they compile?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import llvmlite.binding as llvm
import numpy as np
import pytest
from llvmlite import ir

from skipsim.hwmodels.kernels import (
    ActivePixels,
    Convolution,
    FeatureMap,
    Program,
    Source,
    combine,
    convolve,
    machine_code,
    pack,
    pixel_loops,
    register_tile,
    sparse_convolution,
)

CACHED = (
    machine_code.host_lanes,
    machine_code.vector_registers,
    register_tile.tiles,
    sparse_convolution._table,
    pixel_loops.pixel_loops,
)


@pytest.fixture
def plain_x86(x86: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Pretend that the CPU has nothing beyond what every 64-bit x86 has: 16 registers of 4 floats, no fused product."""
    monkeypatch.setattr(machine_code, "host_features", lambda: {})
    monkeypatch.setattr(machine_code, "_identity", lambda: ("x86-64", "", "test"))
    for function in CACHED:
        function.cache_clear()
    yield
    for function in CACHED:
        function.cache_clear()


def test_a_machine_without_avx(plain_x86: None) -> None:
    assert machine_code.host_lanes() == 4
    rng = np.random.default_rng(0)
    layer = Convolution(6, 11, (3, 3), padding=(1, 1, 1, 1))
    weight = rng.standard_normal((11, 6, 3, 3)).astype(np.float32)
    x, y, z = FeatureMap.zeros(7, 9, 6, (1, 1, 1, 1)), FeatureMap.zeros(7, 9, 11), FeatureMap.zeros(7, 9, 11)
    x.interior[...] = rng.standard_normal((7, 9, 6))
    every = ActivePixels.full(7, 9)
    Program([convolve(pack(layer, weight), x, y, every, "relu"), combine(z, [Source(y), Source(y)], every)]).run(2)
    windows = np.lib.stride_tricks.sliding_window_view(x.data[..., :], (3, 3), (0, 1))
    expected = np.maximum(np.einsum("rcikl,oikl->rco", windows.astype(np.float64), weight.astype(np.float64)), 0)
    np.testing.assert_allclose(y.interior, expected, atol=1e-5)
    np.testing.assert_allclose(z.interior, 2 * expected, atol=2e-5)


def test_code_for_a_machine_without_avx_has_no_wide_registers_and_calls_no_library(plain_x86: None) -> None:
    text = machine_code.assembly(_two_tiles())
    assert "mulps" in text
    assert not any(word in text for word in ("ymm", "zmm", "fmaf", "callq\tfma"))


def test_code_for_arm_uses_its_fused_products() -> None:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    target = llvm.Target.from_triple("aarch64-unknown-linux-gnu")
    module = _two_tiles()
    module.triple = "aarch64-unknown-linux-gnu"
    text = target.create_target_machine(cpu="neoverse-n1", opt=3).emit_assembly(llvm.parse_assembly(str(module)))
    assert "fmla\tv" in text
    assert "fmaf" not in text


def test_compiled_code_is_kept_and_found_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    module = ir.Module("two")
    kind = ir.FunctionType(ir.IntType(64), [])
    ir.IRBuilder(ir.Function(module, kind, "two").append_basic_block()).ret(ir.IntType(64)(2))
    first = machine_code.compile_functions(module, "two")
    files = list((tmp_path / "skipsim" / "objects").iterdir())
    assert [file.name.startswith("two-") and file.suffix == ".o" for file in files] == [True]
    assert first.keys() == machine_code.compile_functions(module, "two").keys() == {"two"}


def test_a_cache_folder_that_cannot_be_written_is_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "skipsim").write_text("a file where the folder should be")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    module = ir.Module("three")
    kind = ir.FunctionType(ir.IntType(64), [])
    ir.IRBuilder(ir.Function(module, kind, "three").append_basic_block()).ret(ir.IntType(64)(3))
    assert machine_code.compile_functions(module, "three").keys() == {"three"}


def _two_tiles() -> ir.Module:
    module = ir.Module("tiles")
    register_tile.emit_finish(module, 4)
    for kind in ("plain", "row3"):
        register_tile.emit_tile(module, 4, kind, 6, 2)
    return module
