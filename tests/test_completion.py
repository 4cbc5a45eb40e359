"""Does the shell complete commands, options, machines and files, as README says it can be set up?"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(sys.executable).with_name("skipsim")


def complete(words: str) -> list[str]:
    """Return what bash is offered for the last word: "type,value" lines as click's script reads them."""
    environment = os.environ | {
        "_SKIPSIM_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
    }
    answer = subprocess.run([SCRIPT], env=environment, capture_output=True, text=True, check=True)
    return answer.stdout.split()


@pytest.mark.parametrize(
    ("words", "offers"),
    [
        ("skipsim sw", ["plain,sweep"]),
        ("skipsim trace ch", ["plain,check"]),
        ("skipsim sweep study.toml --dry", ["plain,--dry-run"]),
        ("skipsim simulate a.trace --hardware edge", ["plain,edge-npu"]),
        ("skipsim simulate a.trace --hardware mine", ["file,mine"]),
        ("skipsim record pose_", ["plain,pose_narrow", "plain,pose_small"]),
        ("skipsim train un", ["plain,unet"]),
        ("skipsim compare bef", ["file,bef"]),
        ("skipsim trace info a", ["file,a"]),
    ],
)
def test_what_is_offered(words: str, offers: list[str]) -> None:
    assert complete(words) == offers


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_for_a_shell(shell: str) -> None:
    environment = os.environ | {"_SKIPSIM_COMPLETE": f"{shell}_source"}
    script = subprocess.run([SCRIPT], env=environment, capture_output=True, text=True, check=True).stdout
    assert f"_SKIPSIM_COMPLETE={shell}_complete" in script
    assert re.search(r"\bskipsim\b", script)
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)
