"""The command line: options in, one call of the library, text or JSON out. Nothing else lives here.

Everything is imported inside the commands, so that `skipsim --help` answers at once.
"""

from __future__ import annotations

import json
import math
import sys
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from skipsim import __version__
from skipsim.errors import InputError

if TYPE_CHECKING:
    from skipsim.hwmodels.hardware import Hardware

USAGE_ERRORS = (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError)


class CommandLine(click.Group):
    """Ends every run with 0 (done), 1 (failed) or 2 (bad input), and says in one line on standard error why."""

    def main(self, args: Sequence[str] | None = None, *_: Any, **options: Any) -> NoReturn:  # type: ignore[override]
        """Run one command and exit."""
        try:
            code = super().main(args, "skipsim", standalone_mode=False, **options)
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message())
            code = 2
        except click.UsageError as error:
            command = error.ctx.command_path if error.ctx else "skipsim"
            _complain(f"{error.format_message()} (see: {command} --help)")
            code = 2
        except InputError as error:
            _complain(str(error))
            code = 2
        except click.Abort:
            _complain("stopped")
            code = 1
        except OSError as error:
            _complain(f"{error.filename}: {error.strerror}" if error.filename else str(error))
            code = 2 if isinstance(error, USAGE_ERRORS) else 1
        sys.exit(code if isinstance(code, int) else 0)


def _complain(message: str) -> None:
    click.echo("skipsim: " + " ".join(message.split()), err=True)


def _print_json(data: Any) -> None:
    click.echo(json.dumps(_finite(data), indent=1))


def _finite(data: Any) -> Any:
    """Return data with infinities as text, which JSON has no number for."""
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return str(data) if isinstance(data, float) and not math.isfinite(data) else data


def _settings(pairs: Sequence[str]) -> dict[str, Any]:
    """Read `key=value` pairs; a value is a TOML literal, and text where it is none."""
    settings = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key.strip():
            raise InputError(f"--set {pair!r}: must be KEY=VALUE, for example dram.bytes_per_cycle=8")
        try:
            settings[key.strip()] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            settings[key.strip()] = text.strip()
    return settings


def _hardware(name: str, settings: Sequence[str]) -> Hardware:
    from skipsim.hwmodels.hardware import load_hardware

    hardware = load_hardware(name)
    changes = _settings(settings)
    return hardware.replace(**changes) if changes else hardware


AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
HARDWARE = click.option("--hardware", required=True, metavar="NAME|FILE", help="A machine's name, or its .toml file.")
SET = click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a number of the machine, e.g. dram.bytes_per_cycle=8; may be repeated.",
)


def _example(*lines: str) -> str:
    return "\b\nExample:\n" + "\n".join(f"  {line}" for line in lines)


@click.group(cls=CommandLine, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, message="skipsim %(version)s")
def main() -> None:
    """Predict what skipping unchanged blocks of a video network saves on real hardware.

    \b
    First steps:
      skipsim demo                                      the whole path on a shipped network, with figures
      skipsim record pose_small pose:2000000 -o a.trace --threshold 0.1 --block 4
      skipsim simulate a.trace --hardware edge-npu      how long that takes there
    """


@main.command(epilog=_example("skipsim demo --out demo-output"))
@click.option("--out", type=click.Path(path_type=Path), default="demo-output", show_default=True, help="Folder.")
@click.option("--workers", type=click.IntRange(min=1), help="Processes; default: one per core.")
def demo(out: Path, workers: int | None) -> None:
    """Run the whole path on a shipped network and procedural clips: record, sweep, figures, and an answer in words."""
    from skipsim.analysis.demo import demo as run

    run(out, workers=workers)


@main.command(
    epilog=_example(
        "skipsim record pose_small pose:2000000:pan -o pan.trace --threshold 0.1 --block 4 --frames 40",
        "skipsim record my_network:build street.mp4 -o street.trace --threshold 0.05 --block 8 --size 256x256",
    )
)
@click.argument("model")
@click.argument("video")
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="The trace: a folder to be made.")
@click.option("--gate", default="input_norm", show_default=True, help="input_norm, output_norm, or none: dense.")
@click.option("--threshold", type=float, help="Change below which a block is skipped, in units of a layer's input.")
@click.option("--block", default="1", show_default=True, metavar="N|RxC", help="Output pixels that share a decision.")
@click.option("--update", default="recompute", show_default=True, help="recompute, accumulate or previous.")
@click.option("--reset-every", type=int, help="Compute every so many frames densely again.")
@click.option("--frames", type=int, help="Stop after so many frames.")
@click.option("--size", metavar="RxC", help="Resize the frames to rows x cols.")
@click.option("--weights", type=click.Path(path_type=Path), help="Safetensors, or a PyTorch file of tensors.")
@click.option("--labels", type=click.Path(path_type=Path), help=".npz with joints, and visible and scale if known.")
@click.option("--agreement/--no-agreement", default=True, show_default=True, help="Compare with the dense network.")
@AS_JSON
def record(model: str, video: str, out: Path, as_json: bool, **options: Any) -> None:
    """Run MODEL with gates on VIDEO and record which blocks it computed.

    MODEL is a network's name (pose_small, ...) or package.module:function, a function without arguments that returns
    an nn.Module; modules in the current folder are found. VIDEO is a video file, a folder of images, a .npy array or a
    procedural clip, pose:SEED[:CAMERA].
    """
