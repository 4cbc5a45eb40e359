"""How long do `import skipsim` and `skipsim --help` take? Bound: 0.5 s each, in a fresh interpreter.

Run by hand: .venv/bin/python benchmarks/startup.py [--runs 10] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

BOUND_S = 0.5
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "import skipsim": [sys.executable, "-c", "import skipsim"],
    "skipsim --help": [str(Path(sys.executable).with_name("skipsim")), "--help"],
}


def seconds(command: list[str]) -> float:
    """Return the wall-clock time of one run of a command."""
    start = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def main() -> None:
    """Time every command, print a table and write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--json", type=Path, help="write the numbers here as well")
    arguments = parser.parse_args()

    rows = []
    print(f"{'command':<18} {'best s':>8} {'median s':>9} {'bound s':>8}")
    for name, command in COMMANDS.items():
        seconds(command)  # the first run writes bytecode
        times = [seconds(command) for _ in range(arguments.runs)]
        row = {"command": name, "best_s": min(times), "median_s": statistics.median(times), "bound_s": BOUND_S}
        rows.append(row)
        print(f"{name:<18} {row['best_s']:>8.3f} {row['median_s']:>9.3f} {BOUND_S:>8}")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
