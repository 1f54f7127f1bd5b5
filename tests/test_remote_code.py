"""The remote code (`*_csp.py`): PyTorch alone where the package is not there, its kernels where it is, and not those of another version."""

import ast
import json
import os
import subprocess
import sys

import pytest
import torch

from tiny import ALL_SITES, ROOT, thinned

IDS = [[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20]]
REMOTE = sorted(path for path in ROOT.glob("*_csp.py"))
FOREIGN = {"torch", "transformers", "safetensors"}

RUN = """
import json, sys, warnings, torch
from transformers import AutoModelForCausalLM
folder, ids, out = sys.argv[1], torch.tensor(json.loads(sys.argv[2])), sys.argv[3]
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, sparse=True)
    assert type(model).__module__.startswith("transformers_modules."), type(model)
    model.to_sparse(max_density=1.0)
    assert model.is_sparse
    with torch.no_grad():
        logits = model(ids).logits
    tokens = model.generate(ids, max_new_tokens=4, do_sample=False, pad_token_id=0).tolist()
    try:
        model.save_pretrained(out, sparse=True)
        saved = "sparse"
    except ImportError as error:
        saved = str(error)
        model.save_pretrained(out)
found = {"tokens": tokens, "logits": logits.tolist(), "saved": saved, "said": [str(each.message) for each in said if "sparse_circuits" in str(each.message)],
         "fused": any("_fused_plan" in block.__dict__ for block in model.transformer.h), "package": "sparse_circuits.kernels" in sys.modules}
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def model():
    return thinned(share=0.04, afrac=dict.fromkeys(ALL_SITES, 0.5), sink=True)


def run_elsewhere(model, scratch, *before):
    """What RUN prints in a process that sees only what is put on its path: first `before`, then the installed packages, ours not among them."""
    model.save_pretrained(scratch / "saved", sparse=True)
    site = os.path.dirname(os.path.dirname(torch.__file__))
    path = os.pathsep.join([*map(str, before), site])
    env = {**os.environ, "PYTHONPATH": path, "HF_HOME": str(scratch / "hf")}
    given = [str(scratch / "saved"), json.dumps(IDS), str(scratch / "again")]
    done = subprocess.run([sys.executable, "-S", "-c", RUN, *given], env=env, cwd=scratch, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


def same_as(model, found):
    with torch.no_grad():
        torch.testing.assert_close(torch.tensor(found["logits"]), model(torch.tensor(IDS)).logits, atol=1e-5, rtol=1e-5)
    assert found["tokens"] == model.generate(torch.tensor(IDS), max_new_tokens=4, do_sample=False, pad_token_id=0).tolist()


@pytest.mark.parametrize("transformers", ["installed", "4.57"])
def test_alone(model, tmp_path, transformers):
    before = [] if transformers == "installed" else [ROOT / ".venv-compat"]
    if before and not (before[0] / "transformers").is_dir():
        pytest.skip("needs transformers 4.57; `make compat` installs it beside the environment")
    found = run_elsewhere(model, tmp_path, *before)
    same_as(model, found)
    assert not found["package"]
    assert not found["fused"]
    assert not found["said"]
    assert "takes the package sparse_circuits" in found["saved"]
    assert (tmp_path / "again" / "model.safetensors").is_file()  # dense, which it can write


def test_with_the_package_beside_it(model, tmp_path):
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "sparse_circuits").symlink_to(ROOT)
    found = run_elsewhere(model, tmp_path, tmp_path / "path")
    same_as(model, found)
    assert found["fused"]
    assert found["saved"] == "sparse"
    assert not found["said"]


def test_beside_a_package_of_another_version(model, tmp_path):
    other = tmp_path / "path" / "sparse_circuits"
    other.mkdir(parents=True)
    (other / "__init__.py").write_text("INTERFACE = 99\n")
    found = run_elsewhere(model, tmp_path, tmp_path / "path")
    same_as(model, found)
    assert not found["fused"]
    assert not found["package"]
    assert found["said"]
    assert all("has version 99 of what this model's code calls, which takes" in text for text in found["said"])


def test_it_is_short_and_pytorch_alone():
    """So that it can be read before it is trusted."""
    lines = sum(len(path.read_text().splitlines()) for path in REMOTE)
    assert lines <= 2300
    for path in REMOTE:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                assert node.level < 2, (path.name, node.module)
                assert node.level == 0 or f"{node.module}.py" in {each.name for each in REMOTE}, (path.name, node.module)
                names = [node.module or ""] if node.level == 0 else []
            for name in names:
                top = name.partition(".")[0]
                assert top in FOREIGN or (top in sys.stdlib_module_names and top != "ctypes"), (path.name, name)
