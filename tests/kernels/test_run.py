"""Running kernels: memory, and a Numba that does not work."""

import pytest
import torch

import sparse_circuits.kernels.run as running
from elsewhere import run_alone
from sparse_circuits.topk_csp import abs_topk


def test_a_kernel_without_memory_says_so(monkeypatch):
    monkeypatch.setattr(running, "_entry", lambda kernel: (lambda job: None, 0))  # as one does that could not take its memory
    with pytest.raises(MemoryError, match="scratch space of a kernel"):
        abs_topk(torch.randn(3, 8), 2)


def test_numba_that_cannot_be_imported_is_no_numba():
    code = (
        "import sys, importlib.util, warnings, torch\n"
        "class Broken:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'numba' and path is None and sys._getframe(1).f_code.co_name != 'find_spec':\n"
        "            raise ImportError('Numba needs NumPy 2.2 or less')\n"
        "import sparse_circuits.topk_csp as s\n"
        "sys.modules['numba'] = None\n"
        "importlib.util.find_spec = lambda name, *a: object()\n"
        "with warnings.catch_warnings(record=True) as seen:\n"
        "    warnings.simplefilter('always')\n"
        "    assert s.abs_topk(torch.tensor([1.0, -3.0]), 1).tolist() == [0.0, -3.0]\n"
        "assert 'PyTorch serves instead' in str(seen[0].message)\n"
    )
    run_alone(code)
