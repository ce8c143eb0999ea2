"""What the examples do for the machine that they run on."""

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
# Pages that 16 blocks of 4 MiB, filled, ask of the system when as many have been freed some times.
FAULTS = """
import resource
import torch
from hardware import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [torch.ones(2**20) for _ in range(16)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

{first}
print([faults() for _ in range(6)][-1])
"""


def faults(first: str) -> int:
    code = FAULTS.format(first=first)
    told = subprocess.run((sys.executable, "-c", code), cwd=EXAMPLES, capture_output=True, text=True, check=True)
    return int(told.stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs glibc")
def test_the_memory_of_a_step_is_kept_for_the_next() -> None:
    assert faults("keep_freed_memory()") < faults("pass") / 20
