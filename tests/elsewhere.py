"""Code in a process of its own, and a saved model in one that does not see this package."""

import functools
import os
import subprocess
import sys

import torch

from forked import LIBRARIES, Server
from tiny import tiny_ids


def run_alone(code):
    """Runs code in a process of its own, with this package; it must not fail."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


@functools.cache
def _outside(python_path):
    """Processes that do not see this package: an editable install is found through a finder on the site path; -S and an explicit path leave it out."""
    site = os.path.dirname(os.path.dirname(torch.__file__))
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [python_path, site]))}
    return Server(*LIBRARIES, flags=["-S"], env=env), env


def run_elsewhere(folder, model, scratch, *, python_path=""):
    """Runs the script above in a process that cannot import the package, from another directory."""
    ids = tiny_ids()
    with torch.no_grad():
        logits = model(ids).logits
    torch.save(ids, folder / "ids.pt")
    torch.save(logits, folder / "logits.pt")
    torch.save(model.generate(ids, max_new_tokens=8, do_sample=False, pad_token_id=0), folder / "generated.pt")
    server, env = _outside(python_path)
    done = server.run(["-c", ELSEWHERE, str(folder)], str(scratch), {**env, "HF_HOME": str(scratch / "hf")}, 300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


ELSEWHERE = """
import sys, torch
assert "sparse_circuits" not in sys.modules
try:
    import sparse_circuits
    sys.exit("the package must not be importable here")
except ImportError:
    pass
import transformers
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM
folder = sys.argv[1]
ids = torch.load(folder + "/ids.pt", weights_only=True)
for attention in ("eager", "sdpa"):
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, attn_implementation=attention)
    expected = torch.load(folder + "/logits.pt", weights_only=True)
    assert (model(ids).logits - expected).abs().max() < 1e-5
    out = model.generate(ids, max_new_tokens=8, do_sample=False, pad_token_id=0)
    assert torch.equal(out, torch.load(folder + "/generated.pt", weights_only=True))
    padded = torch.cat([torch.zeros(3, 4, dtype=torch.long), ids], dim=1)
    mask = torch.cat([torch.zeros(3, 4, dtype=torch.long), torch.ones_like(ids)], dim=1)
    again = model.generate(padded, attention_mask=mask, max_new_tokens=8, do_sample=False, pad_token_id=0)
    assert torch.equal(again[:, 4:], out)
    static = model.generate(ids, max_new_tokens=8, do_sample=False, pad_token_id=0, cache_implementation="static")
    assert torch.equal(static, out)
assert type(AutoConfig.from_pretrained(folder, trust_remote_code=True)).__name__ == "CSPConfig"
assert type(AutoModel.from_pretrained(folder, trust_remote_code=True)).__name__ == "CSPModel"
fresh = AutoModelForCausalLM.from_config(model.config, trust_remote_code=True)
assert torch.isfinite(fresh(ids).logits).all()
model.save_pretrained(folder + "/again")
reloaded = AutoModelForCausalLM.from_pretrained(folder + "/again", trust_remote_code=True)
assert (reloaded(ids).logits - expected).abs().max() < 1e-5
out = model(ids, labels=ids, output_hidden_states=True)
out.loss.backward()
assert len(out.hidden_states) == 3
print("transformers", transformers.__version__, "fine")
"""
