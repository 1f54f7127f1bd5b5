"""Memory is kept where glibc is, and only where nobody said otherwise."""

import os
import platform
import subprocess
import sys

import pytest

from sparse_circuits.training import keep_memory
from sparse_circuits.training.memory import _OWN

FAULTS = """
import resource, sys, torch
from sparse_circuits.training import keep_memory
print(keep_memory() if sys.argv[1] == "keep" else False)
for i in range(5):
    if i == 3:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    a = [torch.ones(200_000_000) for _ in range(3)]  # more than fits a 32-bit threshold
    del a
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_large_blocks_are_used_again_without_page_faults():
    environment = {key: value for key, value in os.environ.items() if key not in _OWN}
    found = {}
    for way in ("keep", "not"):
        told = subprocess.run([sys.executable, "-c", FAULTS, way], capture_output=True, text=True, env=environment, check=True)
        done, faults = told.stdout.split()
        found[way] = int(faults)
        assert done == str(way == "keep")
    assert found["keep"] < 0.3 * found["not"], found


def test_settings_of_ones_own_stand(monkeypatch):
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
    assert keep_memory() is False
