"""What was public under another name is found for one version, with a warning that names the new one."""

import importlib
import importlib.util
import sys

import pytest

import sparse_circuits._auto as auto
from elsewhere import run_alone


@pytest.mark.parametrize("name", auto._MOVED)
def test_modules(name):
    sys.modules.pop(f"sparse_circuits.{name}", None)
    with pytest.warns(FutureWarning, match=f"sparse_circuits.{name} is now sparse_circuits."):
        module = importlib.import_module(f"sparse_circuits.{name}")
    for home in auto._MOVED[name]:
        found = importlib.import_module(f"sparse_circuits.{home}")
        own = next(
            each for each in vars(found) if callable(getattr(found, each)) and getattr(found, each).__module__ == found.__name__
        )
        assert callable(getattr(module, own))
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = module.no_such_thing


def test_names_in_documentation_of_the_version_before():
    code = (
        "import warnings; warnings.simplefilter('ignore')\n"
        "from sparse_circuits.training.corpus import TokenBlocks, read_sources, split_blocks\n"
        "from sparse_circuits.circuits import gate, gates, Gate, Report\n"
        "from sparse_circuits.circuits.export import to_mib, to_attribution_graph\n"
        "from sparse_circuits.training import SparseTensor\n"
        "from sparse_circuits.convert import publish\n"
        "from sparse_circuits.convert.publish import Plan\n"
        "from sparse_circuits.sparse_csp import pays, abs_topk\n"
    )
    run_alone(code)


@pytest.mark.parametrize(("module", "old"), [("circuits", "gate"), ("training", "SparseTensor"), ("circuits.export", "to_mib")])
def test_a_name_that_was_another_warns(module, old):
    home = importlib.import_module(f"sparse_circuits.{module}")
    with pytest.warns(FutureWarning, match=f"{module}.{old} is now"):
        assert callable(getattr(home, old))
    with pytest.raises(AttributeError):
        _ = home.never_was


def test_no_module_has_both_names():
    for name in auto._MOVED:
        spec = importlib.util.find_spec(f"sparse_circuits.{name}")
        assert isinstance(spec.loader, auto._Moved), name
