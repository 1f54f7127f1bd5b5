"""Publishing over HTTP on loopback, with the real client, to a stand-in for the Hub; each call in a process of its own, as a user's would be."""

import importlib
import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import torch
from published import TASK, TOKEN, called_at, client, cut, damaged, edit, refused, text
from safetensors.torch import save_file

from sparse_circuits import Circuit, CSPForCausalLM, CSPTokenizer
from sparse_circuits.circuits.identity import circuit_sha256
from sparse_circuits.convert import publish
from sparse_circuits.publishing.card import model_card
from tiny import ROOT

LOAD = """
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained("user/model", trust_remote_code=True, dtype=torch.float32, revision={revision!r}).eval()
print(type(model).__module__)
from sparse_circuits import Circuit
circuit = Circuit.from_pretrained("user/model", "single_double_quote", revision={revision!r})
ids = torch.arange(16)[None]
with torch.no_grad():
    full = model(ids).logits
    with circuit.applied_to(model):
        own = model(ids).logits
tokenizer = AutoTokenizer.from_pretrained("user/model", revision={revision!r})
print(len(tokenizer), circuit)
torch.save({{"full": full, "own": own}}, {out!r})
"""


def loaded(hub, cache, revision="main"):
    out = str(cache / "logits.pt")
    done = client(hub, cache, code=LOAD.format(revision=revision, out=out), token=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "transformers_modules." in done.stdout
    return torch.load(out, weights_only=True)


def expected(folder):
    model, circuit = CSPForCausalLM.from_pretrained(folder).eval(), Circuit.from_pretrained(folder, TASK)
    ids = torch.arange(16)[None]
    with torch.no_grad():
        full = model(ids).logits
        with circuit.applied_to(model):
            return {"full": full, "own": model(ids).logits}


def same(one, two):
    return all(torch.allclose(one[key], two[key], atol=1e-5) for key in ("full", "own"))


def test_there_and_back(hub, cache, folder):
    done = client(hub, cache, "publish", folder, "--repo-id", "user/model", "--space", "user/look")
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"Published: {hub.url}" in done.stdout
    assert same(loaded(hub, cache), expected(folder))
    files = hub.repos["models/user/model"]["branches"]["main"][-1]["files"]
    assert not {"blocks.safetensors", "optimizer.pt"} & set(files)
    assert f"circuits/{TASK}/page.html" in files
    card = files["README.md"].decode()
    assert 'from_pretrained("user/model", trust_remote_code=True)' in card
    assert re.search(rf"\| {TASK} \| \d+ \| 0\.\d+ \| [a-z, ]+ \|  \| \[page.html\]", card)
    assert "Published with" in card
    assert "@article" in card
    assert "license: apache-2.0" in card
    assert "path/to/this/folder" not in card
    site = hub.repos["spaces/user/look"]["branches"]["main"][-1]["files"]
    assert b'"sdk"' not in site["README.md"]
    assert b"sdk:" in site["README.md"]
    assert TASK.encode() in site["index.html"]
    assert hub.repos["spaces/user/look"]["sdk"] == "static"
    first = hub.repos["models/user/model"]["branches"]["main"][-1]["sha"]
    # a second version; the first can still be had by its revision
    changed = cache.parent / "changed"
    shutil.copytree(folder, changed)
    circuit = Circuit.from_pretrained(changed, TASK)
    circuit.labels = {f"{next(iter(circuit.nodes))}:{int(next(iter(circuit.nodes.values()))[0])}": "first"}
    circuit.save_pretrained(changed / "circuits" / TASK)
    puts = sum(method == "PUT" for method, _ in hub.requests)
    assert client(hub, cache, "publish", changed, "--repo-id", "user/model").returncode == 0
    assert sum(method == "PUT" for method, _ in hub.requests) == puts  # no weights are sent twice
    assert same(loaded(hub, cache, first), expected(folder))
    look = "from sparse_circuits import Circuit; print(Circuit.from_pretrained('user/model', 'single_double_quote', revision={!r}).labels)"
    assert "first" in client(hub, cache, code=look.format("main")).stdout
    assert client(hub, cache, code=look.format(first)).stdout.strip() == "{}"


def test_killed_in_the_middle_and_run_again(hub, cache, folder):
    running = {}

    def kill():
        if hub.lfs and "process" in running:
            running.pop("process").kill()

    hub.after = {r"/lfs-store/": kill}
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(cache),
        "HF_HUB_DISABLE_XET": "1",
        "HF_TOKEN": hub.token,
    }
    environment.pop("HF_HUB_OFFLINE", None)
    process = subprocess.Popen(
        [sys.executable, "-m", "sparse_circuits.cli", "publish", str(folder), "--repo-id", "user/model"],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    running["process"] = process
    assert process.wait(300) < 0
    assert list(hub.repos["models/user/model"]["branches"]["main"][-1]["files"]) == [".gitattributes"]  # nothing half is there
    sent = set(hub.lfs)
    assert sent
    hub.after, hub.requests = {}, []
    done = client(hub, cache, "publish", folder, "--repo-id", "user/model")
    assert done.returncode == 0, done.stderr[-2000:]
    again = {path.rpartition("/")[2] for method, path in hub.requests if method == "PUT"}
    assert not again & sent
    assert same(loaded(hub, cache), expected(folder))


@pytest.mark.parametrize(
    ("status", "where", "message"),
    [
        (401, "repos/create", "log in with `hf auth login`"), (403, "commit/main", "one with write access"), (409, "commit/main", "run the same command again"),
        (429, "commit/main", "wait some minutes"), (500, "preupload", "try again later"), (500, "lfs-store", "try again later"),
    ],
)  # fmt: skip
def test_what_the_hub_refuses_is_one_sentence(status, where, message, hub, cache, folder, monkeypatch, capsys):
    """In this process, with the client's waiting between its own tries cut short."""
    hub.fail = [(method, where, status) for method in ("POST", "PUT")]
    called_at(hub, monkeypatch)
    with pytest.raises(ConnectionError) as error:
        publish(folder, "user/model", token=hub.token)
    text = str(error.value)
    assert text.startswith(f"user/model could not be published to (HTTP {status}): ")
    assert message in text
    assert "\n" not in text
    assert hub.token not in text
    circuit = Circuit.from_pretrained(folder, TASK)
    with pytest.raises(ConnectionError, match=f"HTTP {status}"):
        circuit.push_to_hub("user/model", token=hub.token)


def test_a_circuit_is_pushed_into_a_model_repository(hub, cache, folder, monkeypatch):
    called_at(hub, monkeypatch)
    circuit = Circuit.from_pretrained(folder, TASK)
    assert hub.url in circuit.push_to_hub("user/model", token=hub.token)
    again = Circuit.from_pretrained("user/model", TASK, cache_dir=cache)
    assert {k: v.tolist() for k, v in again.nodes.items()} == {k: v.tolist() for k, v in circuit.nodes.items()}
    assert again.model == circuit.model
    for missing, message in [
        (("user/none", TASK), "could not be"),
        (("user/model", "nothing"), "name a task that it has a circuit for"),
    ]:
        with pytest.raises(FileNotFoundError, match=message):
            Circuit.from_pretrained(*missing, cache_dir=cache)
    with pytest.raises(FileNotFoundError, match="could not be"):
        Circuit.from_pretrained("user/model", TASK, revision="nowhere", cache_dir=cache)


def test_a_model_pushes_itself(hub, cache):
    """transformers' own push_to_hub: code and weights arrive, and load as remote code."""
    push = f"""
from sparse_circuits import CSPForCausalLM
model = CSPForCausalLM.from_pretrained({str(ROOT)!r})
model.push_to_hub("user/pushed")
"""
    done = client(hub, cache, code=push)
    assert done.returncode == 0, done.stderr[-2000:]
    load = """
import torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained("user/pushed", trust_remote_code=True)
print(type(model).__module__, float(model(torch.arange(8)[None]).logits.sum()))
"""
    done = client(hub, cache, code=load, token=False)
    assert done.returncode == 0, done.stderr[-2000:]
    module, total = done.stdout.split()
    assert module.startswith("transformers_modules.")
    with torch.no_grad():
        wanted = float(CSPForCausalLM.from_pretrained(ROOT)(torch.arange(8)[None]).logits.sum())
    assert float(total) == pytest.approx(wanted, rel=1e-4)


def test_no_network_is_said(folder, monkeypatch):
    called_at(None, monkeypatch)
    with pytest.raises(ConnectionError, match="no connection to the Hub"):
        publish(folder, "user/model", token="hf_x")


def test_dry_run_sends_nothing(hub, cache, folder):
    done = client(hub, cache, "publish", folder, "--repo-id", "user/model", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "Nothing was sent." in done.stdout
    assert f"circuits/{TASK}/circuit.safetensors" in done.stdout
    for name in ("blocks.safetensors", "checkpoint-10/", "optimizer.pt"):
        assert f"stays here: {name}" in done.stdout
    assert hub.requests == []
    assert hub.repos == {}


WRONG = {
    "a folder in the recipe": (text("recipe.yaml", "corpora: {/data/alice-private/code: 1.0}\n"), "recipe.yaml has a path of this machine among its values"),
    "a mount in the recipe": (text("recipe.yaml", "tokenizer: /mnt/nas/x\n"), "among its values"),
    "a home in the recipe": (text("recipe.yaml", "tokenizer: ~/secret\n"), "among its values"),
    "another token": (text("recipe.yaml", "note: github_pat_" + "a" * 34), "secret token"),
    "this user's token": (text("recipe.yaml", "note: " + TOKEN), "path or token of yours"),
    "damaged text": (text("blocks.safetensors", "junk"), "is damaged .*; remove it"),
    "no tokenizer": (lambda c: (c / "tokenizer.json").unlink(), "has circuits but no tokenizer.json"),
    "a token in the card": (edit("README.md", lambda t: t + "\nhf_" + "a" * 34), r"README.md has what looks like a secret token in line \d+; take it out"),
    "a path in the config": (edit("config.json", lambda t: t.replace('"model_type"', '"note": {"from": "/home/alice/x"}, "model_type"')), "config.json has a path of this machine"),
    "a path in a circuit": (edit(f"circuits/{TASK}/report.json", lambda t: t.replace('"left_out": [', '"left_out": ["/Users/bob/models", ')), "path of this machine"),
    "no config": (lambda c: (c / "config.json").unlink(), "has no config.json"),
    "cut weights": (cut("sparse_weights.safetensors"), "is damaged|must be"),
    "no weights": (lambda c: (c / "sparse_weights.safetensors").unlink(), "has no weights"),
    "a cut circuit": (cut(f"circuits/{TASK}/circuit.safetensors"), "holds no valid circuit"),
    "code that does not run": (edit("modeling_csp.py", lambda t: "import nothing_like_this\n" + t), "does not load in a new process"),
    "a circuit in the wrong folder": (lambda c: (c / "circuits" / TASK).rename(c / "circuits" / "other"), "name its folder so"),
    "a damaged report": (edit(f"circuits/{TASK}/report.json", lambda t: t[:50]), "is no report"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_found_before_a_byte_leaves(what, folder, hub, tmp_path, monkeypatch):
    said = refused(folder, hub, tmp_path, monkeypatch, WRONG[what], "user/model", TOKEN)
    assert "a" * 34 not in said


def test_text_with_secrets_does_not_get_onto_pages(folder, tmp_path, hub, monkeypatch):
    tokenizer = CSPTokenizer.from_pretrained(ROOT)
    secret = tokenizer('key = "AKIAIOSFODNN7EXAMPLE"\n')["input_ids"]
    blocks = torch.randint(0, len(tokenizer), (4, 64), generator=torch.Generator().manual_seed(1)).int()
    blocks[2, : len(secret)] = torch.tensor(secret)
    copy, said, seen = damaged(folder, tmp_path, lambda c: save_file({"train": blocks}, c / "blocks.safetensors")), [], []
    module = importlib.import_module("sparse_circuits.publishing.publish")
    original = module.write_pages
    monkeypatch.setattr(
        module, "write_pages", lambda pages: (seen.extend(each[0].blocks for each in pages.values()), original(pages))[1]
    )
    publish(copy, "user/model", dry_run=True, say=said.append)
    assert len(seen[0]) == 3
    assert "AKIA" not in tokenizer.decode(seen[0].flatten())
    assert "1 of 4 blocks of training text hold what looks like a secret; pages show nothing of them." in said


def test_only_weights_go_of_all_safetensors(folder, tmp_path):
    def more(copy):
        for name in ("eval_blocks.safetensors", ".hidden.safetensors"):
            save_file({"x": torch.zeros(2)}, copy / name)

    plan = publish(damaged(folder, tmp_path, more), "user/model", space="user/look", dry_run=True)
    names = [name for name, _ in plan.files]
    assert not [name for name in names if "blocks" in name or "hidden" in name]
    assert {"eval_blocks.safetensors", ".hidden.safetensors"} <= set(plan.left_out)
    assert {"user/look: index.html", "user/look: README.md"} <= set(names)


def test_a_report_on_another_circuit_is_not_believed(folder, tmp_path, monkeypatch):
    def swap(copy):
        circuit = Circuit.from_pretrained(copy, TASK)
        circuit.nodes, circuit.edges = {}, {}
        circuit.save_pretrained(copy / "circuits" / TASK)

    seen = []
    module = importlib.import_module("sparse_circuits.publishing.publish")
    monkeypatch.setattr(module, "model_card", lambda *args: (seen.append(args[3]), model_card(*args))[1])
    publish(damaged(folder, tmp_path, swap), "user/model", dry_run=True)
    assert seen == [[(TASK, "0", seen[0][0][2], "not verified", "")]]


def test_what_a_new_version_lacks_is_taken_away(hub, folder, tmp_path, monkeypatch):
    called_at(hub, monkeypatch)
    publish(folder, "user/model", token=hub.token)
    copy = damaged(folder, tmp_path, lambda c: shutil.rmtree(c / "circuits"))
    publish(copy, "user/model", token=hub.token)
    files = hub.repos["models/user/model"]["branches"]["main"][-1]["files"]
    assert not [name for name in files if name.startswith("circuits/")]
    assert "sparse_weights.safetensors" in files
    assert "## Circuits" not in files["README.md"].decode()


def test_a_circuit_of_another_model_is_refused(folder, tmp_path):
    def other(copy):
        model = CSPForCausalLM.from_pretrained(copy)
        with torch.no_grad():
            model.lm_head.weight[0, 0] += 1
        model.save_pretrained(copy)

    with pytest.raises(ValueError, match="whose weights are not this model's"):
        publish(damaged(folder, tmp_path, other), "user/model", dry_run=True)


def test_certificates_go_along_and_stale_ones_are_refused(folder, tmp_path):
    circuit = Circuit.from_pretrained(folder, TASK)
    document = {
        "format": "sparse_circuits.certificate", "version": 1, "circuit": circuit_sha256(circuit), "prompts": 200, "right": 150, "one_answer": 100,
        "restricted": {"values": "test", "templates": 1, "of": 1},
    }  # fmt: skip

    def certified(**changed):
        def write(copy):
            (copy / "circuits" / TASK / "certificate.json").write_text(json.dumps({**document, **changed}))
            (copy / "circuits" / TASK / "program.py").write_text("# arithmetic\n")

        return write

    plan = publish(damaged(folder, tmp_path / "a", certified()), "user/model", dry_run=True)
    assert {f"circuits/{TASK}/certificate.json", f"circuits/{TASK}/program.py"} <= {name for name, _ in plan.files}
    with pytest.raises(ValueError, match="is of another circuit than the one there"):
        publish(damaged(folder, tmp_path / "b", certified(circuit="0" * 64)), "user/model", dry_run=True)
    with pytest.raises(ValueError, match="A certificate is damaged"):
        publish(damaged(folder, tmp_path / "c", certified(restricted=None)), "user/model", dry_run=True)


def test_ids_are_checked(folder):
    for wrong in ("model", "a/b/c", "a b/c", ""):
        with pytest.raises(ValueError, match="is no repository id"):
            publish(folder, wrong, dry_run=True)


def test_a_card_of_ones_own_is_kept(folder, tmp_path):
    copy = damaged(folder, tmp_path, lambda c: (c / "README.md").write_text("# Mine\n\nWords.\n"))
    model = CSPForCausalLM.from_pretrained(copy)
    rows = [("a", "3", "0.1", "prefers", "")]
    once = model_card(copy, model, "user/model", rows)
    assert once.startswith("# Mine\n\nWords.\n")
    (copy / "README.md").write_text(once)
    twice = model_card(copy, model, "user/model", rows)
    assert twice == once  # published again, it does not grow
    assert model_card(copy, model, "user/model", []).count("## Circuits") == 0


def test_conversions_are_published_the_same_way(reference, hub, cache):
    done = client(
        hub, cache, "convert", reference / "checkpoints" / "attention_sink", cache / "out", "--publish", "user/converted"
    )
    assert done.returncode == 0, done.stderr[-2000:]
    files = hub.repos["models/user/converted"]["branches"]["main"][-1]["files"]
    assert {"config.json", "model.safetensors", "modeling_csp.py", "README.md"} <= set(files)
    json.loads(files["config.json"])
