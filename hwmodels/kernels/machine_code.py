"""Compile vector code for this machine's CPU and keep the object files between runs.

The inner loops of the kernels are written as LLVM code, with vectors as wide as the machine's registers and register
tiles unrolled by hand. So no C compiler is needed at installation, and the code fits the CPU that it runs on. (The same
tile in C with intrinsics, from gcc 12 -O3 -march=native, is 5 % slower on the Zen 4 that this was developed on.)
"""

from __future__ import annotations

import hashlib
import platform
from contextlib import suppress
from functools import cache
from pathlib import Path

import llvmlite.binding as llvm
from llvmlite import ir

from skipsim.atomic import replacing
from skipsim.compiled import cache_home

LANES = (4, 8, 16)
"""Floats in one vector: 128, 256 and 512 bits. Four work on every machine."""

_engines: list[llvm.ExecutionEngine] = []  # compiled code lives as long as its engine


@cache
def host_features() -> dict[str, bool]:
    """Return what the CPU can do, by LLVM's names such as "avx512f"."""
    return dict(llvm.get_host_cpu_features())


@cache
def is_x86() -> bool:
    """Tell whether this is an x86 machine."""
    return platform.machine().lower() in ("x86_64", "amd64", "i686", "i386")


@cache
def host_lanes() -> int:
    """Return how many floats this machine's widest vector holds."""
    features = host_features()
    if features.get("avx512f") and features.get("avx512vl"):
        return 16
    return 8 if features.get("avx2") and features.get("fma") else 4


@cache
def vector_registers(lanes: int) -> int:
    """Return how many registers hold such vectors: 32 with AVX-512 and on 64-bit ARM, else 16."""
    wide = host_features().get("avx512vl", False) or platform.machine().lower() in ("aarch64", "arm64")
    return 32 if wide else 16


def compile_functions(module: ir.Module, name: str) -> dict[str, int]:
    """Return the addresses of all functions that `module` defines, for as long as the process lives.

    The object file is kept in the user's cache folder under `name`, the code and the machine.
    """
    source = str(module)
    machine = _target_machine()
    digest = hashlib.sha256("\n".join((source, machine.triple, *_identity())).encode()).hexdigest()[:16]
    file = _object_file(f"{name}-{digest}.o")
    if file is not None and file.is_file():
        code = file.read_bytes()
    else:
        parsed = llvm.parse_assembly(source)
        parsed.verify()
        code = machine.emit_object(parsed)
        if file is not None:
            with suppress(OSError), replacing(file) as temporary:
                temporary.write_bytes(code)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(f'target triple = "{machine.triple}"'), _target_machine())
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    _engines.append(engine)
    return {
        f.name: engine.get_function_address(f.name)
        for f in module.functions
        if not f.is_declaration and f.linkage != "internal"
    }


def assembly(module: ir.Module) -> str:
    """Return the machine's instructions for `module` as text, for reading."""
    return str(_target_machine().emit_assembly(llvm.parse_assembly(str(module))))


def _identity() -> tuple[str, ...]:
    return llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten(), str(llvm.llvm_version_info)


def _target_machine() -> llvm.TargetMachine:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    llvm.initialize_native_asmparser()
    cpu, features, _ = _identity()
    target = llvm.Target.from_default_triple()
    return target.create_target_machine(
        cpu=cpu, features=features, opt=3, reloc="default", codemodel="jitdefault", jit=True
    )


def _object_file(name: str) -> Path | None:
    folder = cache_home() / "objects"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder / name
