import os
import statistics
import subprocess
import sys
import time

from forked import run_forked

_BLOCKED = """
import socket
def refuse(*args, **kwargs):
    raise AssertionError("network at import")
socket.socket.connect = socket.getaddrinfo = socket.create_connection = refuse
import sparse_circuits, sparse_circuits.cli.app, sparse_circuits.training, sparse_circuits.convert
from transformers import AutoConfig
assert AutoConfig.for_model("csp").model_type == "csp"
sparse_circuits.CSPForCausalLM, sparse_circuits.CSPTokenizer
"""


def run(code):
    env = {k: v for k, v in os.environ.items() if k != "HF_HUB_OFFLINE"}
    return subprocess.run([sys.executable, "-c", code], check=True, env=env, capture_output=True, text=True).stdout


def test_no_network_at_import():
    run(_BLOCKED)


def test_import_leaves_torch_alone():
    out = run("import sys, sparse_circuits, sparse_circuits.cli.app; print(any(m in sys.modules for m in ('torch', 'numpy')))")
    assert out.strip() == "False"


def test_import_takes_less_than_twice_that_of_transformers():
    def seconds(code):
        begun = time.perf_counter()
        run(code)
        return time.perf_counter() - begun

    pairs = [(seconds("import sparse_circuits"), seconds("import transformers")) for _ in range(5)]
    assert statistics.median(ours / theirs for ours, theirs in pairs) < 2


def test_registration_in_every_order():
    orders = (
        "import sparse_circuits; from transformers import AutoConfig, AutoModelForCausalLM",
        "from transformers import AutoConfig, AutoModelForCausalLM; import sparse_circuits",
        "import sparse_circuits.modeling_csp; from transformers import AutoConfig, AutoModelForCausalLM",
        "from transformers import AutoConfig; import sparse_circuits; from transformers import AutoModelForCausalLM",
        "import sparse_circuits, importlib.util as u; u.find_spec('transformers.models.auto.configuration_auto'); from transformers import AutoConfig, AutoModelForCausalLM",
        "from sparse_circuits import CSPForCausalLM; from transformers import AutoConfig, AutoModelForCausalLM",
    )
    use = "; m = AutoModelForCausalLM.from_config(AutoConfig.for_model('csp', n_layer=1)); print(type(m).__module__)"
    for order in orders:  # transformers is what the order is about; torch is the same before each
        done = run_forked(["-c", order + use], imported=("torch",))
        assert done.stdout.strip() == "sparse_circuits.modeling_csp", (order, done.stderr[-2000:])


def test_public_names_exist():
    import sparse_circuits

    for name in sparse_circuits.__all__:
        assert getattr(sparse_circuits, name).__name__ == name
        assert name in dir(sparse_circuits)
