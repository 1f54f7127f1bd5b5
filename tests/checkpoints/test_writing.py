"""Sparse checkpoints: exact both ways, found wherever they lie, and refused by name when damaged."""

import copy
import json
import os
import shutil
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM

import sparse_circuits.checkpoints.writing as writing
import sparse_circuits.sparse_form_csp as form_module
from elsewhere import run_elsewhere
from sparse_circuits import CSPForCausalLM, CSPModel
from sparse_circuits.checkpoints.writing import compressed, write_sparse
from sparse_circuits.nonzeros_csp import SparseMatrix
from sparse_circuits.sparse_file_csp import INDEX_NAME, WEIGHTS_NAME, Nonzeros, read_sparse
from tiny import ROOT, thinned, tiny_ids, tiny_model


def bits(x):
    return x.contiguous().view({8: torch.int64, 4: torch.int32, 2: torch.int16}[x.element_size()])


# ---------------------------------------------------------------------------------------------------------- tensors

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


@settings(deadline=None, max_examples=80)
@given(st.data())
def test_any_tensor_comes_back_bit_for_bit(tmp_path_factory, data):
    shape = data.draw(st.sampled_from([(1, 1), (1, 300), (300, 1), (7, 5), (40, 70000), (20, 33), (0, 4), (5,), ()]))
    density = data.draw(st.sampled_from([0.0, 0.02, 0.3, 1.0]))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    x = torch.randn(shape, generator=generator) * (torch.rand(shape, generator=generator) < density)
    if data.draw(st.booleans()):
        x = x.bfloat16().float()  # can be narrowed
    special = data.draw(st.sampled_from([None, -0.0, float("nan"), float("inf"), 1e-45]))
    if special is not None and x.numel():
        x.view(-1)[x.numel() // 2] = special
    x = x.to(data.draw(st.sampled_from(DTYPES)))
    folder = tmp_path_factory.mktemp("tensors")
    write_sparse(folder, {"a.weight": compressed(x), "b": torch.arange(3)})
    back = read_sparse([folder / WEIGHTS_NAME])
    found = back["a.weight"]
    found = found.to_dense() if isinstance(found, Nonzeros) else found
    assert found.dtype == x.dtype
    assert found.shape == x.shape
    assert torch.equal(bits(found), bits(x))
    assert back["b"].tolist() == [0, 1, 2]


def test_only_what_is_smaller_is_stored_as_nonzeros(tmp_path):
    sparse, dense = torch.zeros(64, 64), torch.randn(64, 64)
    sparse[3, 5] = 1.0
    assert isinstance(compressed(sparse), Nonzeros)
    assert isinstance(compressed(dense), torch.Tensor)
    write_sparse(tmp_path, {"s": compressed(sparse), "d": compressed(dense)})
    with safe_open(tmp_path / WEIGHTS_NAME, framework="pt") as file:
        assert set(file.keys()) == {"values::s", "columns::s", "counts::s", "dense::d"}
        assert file.get_slice("columns::s").get_dtype() == "U8"
        assert file.get_slice("values::s").get_dtype() == "BF16"  # 1.0 loses nothing there
        assert len(file.metadata()["sha256"]) == 64


# ----------------------------------------------------------------------------------------------------------- models


def same(model, other):
    assert list(model.state_dict()) == list(other.state_dict())
    for (name, one), two in zip(model.named_parameters(), other.parameters(), strict=True):
        assert one.dtype == two.dtype, name
        assert torch.equal(bits(one), bits(two)), name
        assert one.requires_grad == two.requires_grad, name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shards", ["50GB", "4KB"])
def test_models_come_back_bit_for_bit_in_both_forms(features, dtype, shards, tmp_path):
    model = thinned(**features).to(dtype)
    model.generation_config.max_new_tokens = 5
    model.save_pretrained(tmp_path, sparse=True, max_shard_size=shards)
    names = {path.name for path in tmp_path.iterdir()}
    assert (INDEX_NAME in names) == (shards == "4KB")
    assert not [name for name in names if name.startswith(("model.", "model-", "pytorch_model", ".saving"))]
    loaded, info = CSPForCausalLM.from_pretrained(tmp_path, dtype=dtype, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    same(model, loaded)
    assert loaded.generation_config.max_new_tokens == 5
    assert loaded.config.name_or_path == str(tmp_path)
    assert not loaded.training
    loaded(tiny_ids(), labels=tiny_ids()).loss.backward()
    sparse = CSPForCausalLM.from_pretrained(tmp_path, sparse=True)
    assert sparse.dtype == dtype
    assert not any(p.is_meta for p in sparse.parameters())
    same(model, sparse.to_dense())
    # From sparse form to file and back.
    model.to_sparse(max_density=1.0).save_pretrained(tmp_path / "again", sparse=True)
    same(loaded, CSPForCausalLM.from_pretrained(tmp_path / "again", dtype=dtype))
    model.save_pretrained(tmp_path / "dense", sparse=False)
    same(loaded, CSPForCausalLM.from_pretrained(tmp_path / "dense", dtype=dtype))
    assert "sparse_weights.safetensors" not in os.listdir(tmp_path / "dense")


def test_sparse_loading_never_makes_the_dense_matrix(tmp_path, monkeypatch):
    thinned(share=0.05).save_pretrained(tmp_path, sparse=True)
    monkeypatch.setattr(Nonzeros, "to_dense", lambda self: pytest.fail("made dense"))
    model = CSPForCausalLM.from_pretrained(tmp_path, sparse=True)
    kept = {name for name, module in model.named_modules() if isinstance(module, SparseMatrix)}
    assert {"transformer.wte.weight", "lm_head.weight", "transformer.h.1.mlp.c_fc.weight"} <= kept


def test_the_default_takes_what_pays(tmp_path):
    tiny_model().save_pretrained(tmp_path / "full")
    assert (tmp_path / "full" / "model.safetensors").is_file()
    thinned().save_pretrained(tmp_path / "thin")
    assert (tmp_path / "thin" / WEIGHTS_NAME).is_file()
    assert not (tmp_path / "thin" / "model.safetensors").exists()
    thinned().save_pretrained(tmp_path / "checkpoint-12")  # the Trainer's own, which it reads itself
    assert (tmp_path / "checkpoint-12" / "model.safetensors").is_file()


def test_a_folder_never_holds_two_models(tmp_path):
    first, second = thinned(), tiny_model(seed=3)
    first.save_pretrained(tmp_path, sparse=True, max_shard_size="4KB")
    second.save_pretrained(tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("sparse_weights")]
    same(second, CSPForCausalLM.from_pretrained(tmp_path))
    first.save_pretrained(tmp_path, sparse=True)
    assert [path.name for path in tmp_path.glob("*.safetensors*")] == [WEIGHTS_NAME]
    same(first, CSPForCausalLM.from_pretrained(tmp_path))
    # Left behind by other tools: config.json says which file is meant.
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    same(first, CSPForCausalLM.from_pretrained(tmp_path))


def test_a_killed_save_leaves_the_last_good_state(tmp_path, monkeypatch):
    first = thinned()
    first.save_pretrained(tmp_path, sparse=False)
    for fails in ("write_sparse", "move_into"):
        with monkeypatch.context() as patch:
            original = getattr(writing, fails)

            def killed(*args, fails=fails, original=original):
                if fails == "move_into":
                    for name in (WEIGHTS_NAME,):  # moved, but nothing after it
                        shutil.copy(args[1] + "/" + name, args[0])
                raise KeyboardInterrupt

            patch.setattr(writing, fails, killed)
            with pytest.raises(KeyboardInterrupt):
                thinned(share=0.2).save_pretrained(tmp_path, sparse=True)
        same(first, CSPForCausalLM.from_pretrained(tmp_path))
    assert not list(tmp_path.glob(".saving*"))


def test_no_tensor_looks_like_an_ordinary_one(tmp_path):
    model = thinned()
    model.save_pretrained(tmp_path, sparse=True)
    assert not set(load_file(tmp_path / WEIGHTS_NAME)) & set(model.state_dict())


def test_auto_classes_base_models_and_devices(tmp_path):
    model = thinned()
    model.save_pretrained(tmp_path, sparse=True)
    assert type(AutoModelForCausalLM.from_pretrained(tmp_path)) is CSPForCausalLM
    head = AutoModelForCausalLM.from_pretrained(tmp_path, sparse=True, device_map={"": "cpu"}, attn_implementation="eager")
    assert head.is_sparse
    assert head.config._attn_implementation == "eager"
    for sparse in (False, True):
        base = AutoModel.from_pretrained(tmp_path, sparse=sparse)
        assert type(base) is CSPModel
        assert base.is_sparse == sparse
        torch.testing.assert_close(base(tiny_ids()).last_hidden_state, model.transformer(tiny_ids()).last_hidden_state)
    ordinary = CSPForCausalLM.from_pretrained(tmp_path, sparse=True)
    ordinary.to_dense().save_pretrained(tmp_path / "o", sparse=False)
    assert CSPForCausalLM.from_pretrained(tmp_path / "o", sparse=True).is_sparse
    half, info = CSPForCausalLM.from_pretrained(tmp_path, sparse=True, dtype="bfloat16", output_loading_info=True)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    assert not info["missing_keys"]


def test_options_that_cannot_be_honoured_are_named(tmp_path):
    model = thinned()
    with pytest.raises(ValueError, match="have no variants"):
        model.save_pretrained(tmp_path, sparse=True, variant="fp16")
    with pytest.raises(ValueError, match="max_shard_size='much' is no size"):
        model.save_pretrained(tmp_path, sparse=True, max_shard_size="much")
    model.save_pretrained(tmp_path, sparse=True)
    with pytest.raises(ValueError, match="does not take quantization_config"):
        CSPForCausalLM.from_pretrained(tmp_path, sparse=True, quantization_config={"load_in_8bit": True})
    with pytest.raises(ValueError, match="spreads a model over devices"):
        CSPForCausalLM.from_pretrained(tmp_path, sparse=True, device_map={"lm_head": 0, "transformer": 1})
    (tmp_path / "file").write_text("x")
    with pytest.raises(NotADirectoryError, match="is a file; give a folder"):
        model.save_pretrained(tmp_path / "file", sparse=True)


def test_push_to_hub(tmp_path, monkeypatch):
    uploads = []

    class Api:
        def __init__(self, token=None):
            self.token = token

        def create_repo(self, repo_id, **kwargs):
            return SimpleNamespace(repo_id=f"me/{repo_id}")

        def upload_folder(self, folder_path, repo_id, **kwargs):
            uploads.append((repo_id, sorted(os.listdir(folder_path)), kwargs["commit_message"]))
            return SimpleNamespace(commit_url="https://hub/commit")

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    thinned().save_pretrained(tmp_path / "thin", sparse=True, push_to_hub=True, commit_message="First", token="hf_x")
    ((repo, names, message),) = uploads
    assert (repo, message) == ("me/thin", "First")
    assert {"config.json", "modeling_csp.py", "sparse_file_csp.py", WEIGHTS_NAME} <= set(names)


def test_a_hub_repository_is_read_by_its_config(tmp_path, monkeypatch):
    """With the client's download replaced: which files are asked for, and that a stale one is not."""
    model, asked = thinned(), []
    model.save_pretrained(tmp_path / "repo", sparse=True, max_shard_size="4KB")

    def cached(path, name, **options):
        asked.append(name)
        file = tmp_path / "repo" / name
        return str(file) if file.is_file() else None

    monkeypatch.setattr(form_module, "cached_file", cached)
    monkeypatch.setattr(form_module.GenerationConfig, "from_pretrained", lambda *a, **k: model.generation_config)
    loaded = CSPForCausalLM.from_pretrained("me/thin", config=model.config, sparse=True)
    same(model, loaded.to_dense())
    config = json.loads((tmp_path / "repo" / "config.json").read_text()) | {"sparse_weights": False}
    (tmp_path / "repo" / "config.json").write_text(json.dumps(config))
    asked.clear()
    assert form_module._find_sparse("me/thin", {}) is None
    assert asked == ["config.json"]


def test_remote_code_reads_sparse_checkpoints(tmp_path):
    model = thinned(sink=True, position_embedding_type="concatenated", d_pos_emb=6, enable_bigram_table=True)
    model.save_pretrained(tmp_path / "saved", sparse=True)
    assert "fine" in run_elsewhere(tmp_path / "saved", model, tmp_path)


def test_remote_code_reads_sparse_checkpoints_on_transformers_4_57(tmp_path):
    compat = ROOT / ".venv-compat"
    if not (compat / "transformers").is_dir():
        pytest.skip("needs transformers 4.57; `make compat` installs it beside the environment")
    model = thinned(sink=True)
    model.save_pretrained(tmp_path / "saved", sparse=True)
    assert "transformers 4.57" in run_elsewhere(tmp_path / "saved", model, tmp_path, python_path=str(compat))


# ------------------------------------------------------------------------------------------------------ damaged files


# ------------------------------------------------------------------------------------- saves that meet other saves


@pytest.mark.parametrize(("before", "after"), [("4KB", "4KB"), ("4KB", "50GB"), ("50GB", "4KB"), ("50GB", "50GB")])
def test_a_save_killed_at_any_move_leaves_one_of_the_two_models(before, after, tmp_path, monkeypatch):
    first, second = thinned(), tiny_model(seed=9)
    with torch.no_grad():
        for mine, theirs in zip(second.parameters(), first.parameters(), strict=True):
            mine.mul_(theirs != 0)
            mine[mine == 0] = 0.0
    original, outcomes = os.replace, []
    for kill_at in range(40):
        folder = tmp_path / str(kill_at)
        first.save_pretrained(folder, sparse=True, max_shard_size=before)
        moves = iter(range(1000))

        def replace(source, target, kill_at=kill_at, moves=moves):
            if ".saving" in str(source) and next(moves) == kill_at:
                raise KeyboardInterrupt
            return original(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", replace)
            try:
                second.save_pretrained(folder, sparse=True, max_shard_size=after)
                done = True
            except KeyboardInterrupt:
                done = False
        loaded = CSPForCausalLM.from_pretrained(folder)
        outcomes.append([torch.equal(loaded.lm_head.weight, m.lm_head.weight) for m in (first, second)])
        same(first if outcomes[-1][0] else second, loaded)
        if done:
            assert outcomes[-1] == [False, True]
            break
    assert done
    assert [True, False] in outcomes


def test_variants_and_adapters_stand_beside_the_model(tmp_path):
    model = thinned()
    model.save_pretrained(tmp_path, sparse=True)
    model.save_pretrained(tmp_path, variant="fp16")
    assert {WEIGHTS_NAME, "model.fp16.safetensors"} <= set(os.listdir(tmp_path))
    same(model, CSPForCausalLM.from_pretrained(tmp_path))
    other = tiny_model(seed=4)
    other.save_pretrained(tmp_path, variant="fp16")
    assert torch.equal(CSPForCausalLM.from_pretrained(tmp_path, variant="fp16").lm_head.weight, other.lm_head.weight)
    same(model, CSPForCausalLM.from_pretrained(tmp_path))


def test_other_heads_keep_their_weights(tmp_path):
    from transformers.modeling_layers import GenericForSequenceClassification

    from sparse_circuits.modeling_csp import CSPPreTrainedModel

    class CSPForSequenceClassification(GenericForSequenceClassification, CSPPreTrainedModel):
        base_model_prefix = "transformer"

    causal = thinned()
    config = causal.config
    config.num_labels, config.pad_token_id = 3, 0
    model = CSPForSequenceClassification(config)
    model.transformer.load_state_dict(causal.transformer.state_dict())
    model.save_pretrained(tmp_path / "head", sparse=True)
    loaded, info = CSPForSequenceClassification.from_pretrained(tmp_path / "head", output_loading_info=True)
    assert not info["missing_keys"]
    assert torch.equal(loaded.score.weight, model.score.weight)
    # From one task to another: the base is taken, the head is new, and transformers says so.
    causal.save_pretrained(tmp_path / "causal", sparse=True)
    fresh, info = CSPForSequenceClassification.from_pretrained(tmp_path / "causal", output_loading_info=True)
    assert set(info["missing_keys"]) == {"score.weight"}
    assert torch.equal(fresh.transformer.h[0].mlp.c_fc.weight, causal.transformer.h[0].mlp.c_fc.weight)


def test_the_config_that_is_given_is_not_changed(tmp_path):
    model = thinned()
    model.save_pretrained(tmp_path, sparse=True)
    config = copy.deepcopy(model.config)
    first = CSPForCausalLM.from_pretrained(tmp_path, config=config, sparse=True, attn_implementation="eager")
    second = CSPForCausalLM.from_pretrained(tmp_path, config=config, sparse=True, dtype="bfloat16")
    assert first.config._attn_implementation == "eager"
    assert second.config._attn_implementation == "sdpa"
    assert first.dtype == torch.float32
