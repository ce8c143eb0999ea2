"""What the examples do for the machine that they run on."""

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
# Blocks that glibc has mapped by themselves go back to the system when they are freed; the rest it keeps.
MAPPED = """
import ctypes
import torch
from hardware import keep_freed_memory

class Told(ctypes.Structure):
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]

allocator = ctypes.CDLL(None)
allocator.mallinfo2.restype = Told
{first}
before = allocator.mallinfo2().hblks
blocks = [torch.ones(2**20) for _ in range(5)]
print(allocator.mallinfo2().hblks - before)
"""


def mapped(first: str) -> int:
    """How many of five blocks of 4 MiB."""
    code = MAPPED.format(first=first)
    told = subprocess.run((sys.executable, "-c", code), cwd=EXAMPLES, capture_output=True, text=True, check=True)
    return int(told.stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="needs glibc 2.33 or later")
def test_the_blocks_of_a_step_are_kept_for_the_next():
    assert mapped("pass") == 5, "what it is there for"
    assert mapped("keep_freed_memory()") == 0
