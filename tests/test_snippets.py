"""The first code that a user sees (README, cards) runs alone, in a process without a terminal: no question, no warning."""

import os
import re
import subprocess
import sys

import pytest

from sparse_circuits import CSPForCausalLM, CSPTokenizer
from sparse_circuits.convert import convert_openai_checkpoint
from sparse_circuits.publishing.card import model_card
from sparse_circuits.training.card import HERE, write_card
from tiny import ROOT

PROGRESS = re.compile(r"^(Loading weights|.*\d+%\|.*it/s\]|)$")


def snippets(text):
    return re.findall(r"```python\n(.*?)```", text, re.S)


def alone(code, folder):
    """Runs code where nobody can answer a question; returns what it said on stderr besides progress bars."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "PYTHON"))}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(folder / "modules")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120,
        start_new_session=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    said = [line for part in done.stderr.split("\n") for line in part.split("\r")]
    assert [line for line in said if not PROGRESS.match(line.strip())] == []
    return done.stdout


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "model"
    model = CSPForCausalLM.from_pretrained(ROOT)
    model.save_pretrained(folder)
    CSPTokenizer.from_pretrained(ROOT).save_pretrained(folder)
    write_card(folder, model, title="A model", description="For a test.")
    return folder


def test_the_readmes_first_snippet(tmp_path):
    first = snippets((ROOT / "README.md").read_text(encoding="utf-8"))[0]
    assert 'from_pretrained(".", trust_remote_code=True)' in first
    assert alone(first.replace('"."', repr(str(ROOT))), tmp_path).strip()


def test_the_card_of_a_model(saved, tmp_path):
    (snippet,) = snippets((saved / "README.md").read_text(encoding="utf-8"))
    alone(snippet.replace(HERE, str(saved)), tmp_path)


def test_the_card_of_a_published_model_with_a_circuit(saved, tmp_path):
    rows = [("single_double_quote", "91", "0.143", "prefers, mechanism", "99.98% of 145,350 prompts")]
    found = snippets(model_card(saved, None, "me/tiny", rows))
    assert len(found) == 2
    (saved / "circuits").mkdir(exist_ok=True)
    if not (saved / "circuits" / rows[0][0]).exists():
        (saved / "circuits" / rows[0][0]).symlink_to(ROOT / "circuits" / rows[0][0])
    code = (
        "\n".join(found).replace("me/tiny", str(saved)).replace("trust_remote_code=True)", "trust_remote_code=True).float()", 1)
    )
    alone(code, tmp_path)


def test_the_card_of_a_converted_model(reference, tmp_path):
    folder = convert_openai_checkpoint(reference / "checkpoints" / "attention_sink", tmp_path / "out")
    (snippet,) = snippets((folder / "README.md").read_text(encoding="utf-8"))
    alone(snippet.replace(HERE, str(folder)), tmp_path)
