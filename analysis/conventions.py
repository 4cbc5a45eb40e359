"""What all commands have in common: exit codes, one-line errors, JSON, how values are written, signs of life."""

from __future__ import annotations

import json
import math
import sys
import threading
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from textwrap import indent
from typing import Any, NoReturn

import click
from click.shell_completion import CompletionItem

from skipsim.errors import InputError
from skipsim.traces.per_layer import read_table

USAGE_ERRORS = (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError)
PROGRESS_AFTER_SECONDS = 1.0
DENSE_LAYER = "dense"  # in a table of thresholds
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")


class CommandLine(click.Group):
    """Ends every run with 0 (done), 1 (failed) or 2 (bad input), and says in one line on standard error why."""

    group_class = type  # groups of commands are listed in their order too

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order in which they are written, which is that of a user's work."""
        return list(self.commands)

    def main(self, args: Sequence[str] | None = None, *_: Any, **options: Any) -> NoReturn:
        """Run one command and exit."""
        try:
            code = super().main(args, "skipsim", standalone_mode=False, **options)
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message())
            code = 2
        except click.UsageError as error:
            command = error.ctx.command_path if error.ctx else "skipsim"
            complain(f"{error.format_message()} (see: {command} --help)")
            code = 2
        except InputError as error:
            complain(str(error))
            code = 2
        except click.Abort:
            complain("stopped")
            code = 1
        except ModuleNotFoundError as error:
            if error.name != "torch":
                raise
            complain("this command needs PyTorch: pip install 'skipsim[torch]'")
            code = 2
        except OSError as error:
            complain(f"{error.filename}: {error.strerror}" if error.filename else str(error))
            code = 2 if isinstance(error, USAGE_ERRORS) else 1
        sys.exit(code if isinstance(code, int) else 0)


def complain(message: str) -> None:
    """Print one line on standard error."""
    click.echo("skipsim: " + " ".join(message.split()), err=True)


def print_json(data: Any, **rows: Iterable[Any]) -> None:
    """Print data as JSON on standard output.

    `rows`: further keys of it, if it is a dictionary, whose lists are written item by item and never held as a whole.
    """
    text = json.dumps(_finite(data), indent=1)
    for name, items in rows.items():
        click.echo(text.removesuffix("\n}") + f",\n {json.dumps(name)}: [", nl=False)
        separator = "\n"
        for item in items:
            click.echo(separator + indent(json.dumps(_finite(item), indent=1), "  "), nl=False)
            separator = ",\n"
        text = "\n ]\n}"
    click.echo(text)


def _finite(data: Any) -> Any:
    """Return data without what JSON has no number for: not-a-number becomes null, infinity text."""
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    if isinstance(data, float) and not math.isfinite(data):
        return None if math.isnan(data) else str(data)
    return data


def read_settings(pairs: Sequence[str]) -> dict[str, Any]:
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


def read_pair(option: str, text: str) -> tuple[int, int]:
    """Read "8" as (8, 8) and "8x4" as (8, 4)."""
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isascii() and side.isdigit() and int(side) for side in sides):
        raise InputError(f"{option} {text!r}: must be a whole number >= 1, or ROWSxCOLS, for example 4 or 4x8")
    return int(sides[0]), int(sides[-1])


def read_block(option: str, text: str) -> tuple[int, int] | dict[str, tuple[int, int]]:
    """Read "8", "8x4", or a table by layer, "64x64=8,*=4" (see traces/per_layer.py)."""
    if "=" not in text:
        return read_pair(option, text)
    return {key: read_pair(option, value) for key, value in read_table(text).items()}


def read_threshold(option: str, text: str) -> float | dict[str, float | None]:
    """Read "0.1", or a table by layer, "conv1=dense,stage2.*=0.05,*=0.1"; None is a dense layer."""
    if "=" in text:
        table = read_table(text).items()
        return {key: None if value == DENSE_LAYER else _number(option, value) for key, value in table}
    return _number(option, text)


def _number(option: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(
            f"{option} {text!r}: must be a number, or by layer KEY=NUMBER,... with {DENSE_LAYER} for a dense one"
        ) from None


@contextmanager
def working(what: str) -> Iterator[None]:
    """Show on a terminal that something is under way, as soon as a second has gone by."""
    from rich.console import Console

    status = Console(stderr=True).status(what)
    timer = threading.Timer(PROGRESS_AFTER_SECONDS, status.start)
    timer.daemon = True
    if sys.stderr.isatty():
        timer.start()
    try:
        yield
    finally:
        timer.cancel()
        status.stop()


def complete_machine(context: click.Context, parameter: click.Parameter, typed: str) -> list[CompletionItem]:
    """Offer the shell the names of the catalogue, and files."""
    from skipsim.hwmodels.hardware import machines

    return _offered(machines(), typed)


def complete_network(context: click.Context, parameter: click.Parameter, typed: str) -> list[CompletionItem]:
    """Offer the shell the networks that come with skipsim, and files: the user's own stand in modules."""
    from skipsim.traces.models import networks

    return _offered(networks(), typed)


def _offered(names: Iterable[str], typed: str) -> list[CompletionItem]:
    named = [CompletionItem(name) for name in names if name.startswith(typed)]
    return named or [CompletionItem(typed, type="file")]


def example(*lines: str) -> str:
    """Return command lines as the end of a help page."""
    return "\b\nExample:\n" + "\n".join(f"  {line}" for line in lines)
