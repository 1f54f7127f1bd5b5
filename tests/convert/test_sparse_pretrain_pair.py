"""Bridged models, tokenizers by name and tasks of sparse_pretrain: against plain second implementations of what the format says, from stand-ins of its objects."""

import json
import random
from types import SimpleNamespace

import pytest
import torch
import yaml
from plain_sparse_gpt import MODEL, SPARSITY, plain_logits, state_dict, write
from published import called_at
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from typer.testing import CliRunner

from hub_server import Hub
from sparse_circuits.bridges import BridgedPair
from sparse_circuits.bridges.hybrids import stream, tails
from sparse_circuits.circuits import load_task
from sparse_circuits.cli.app import app
from sparse_circuits.convert import convert_checkpoint, read_sparse_pretrain, task_file
from tiny import tiny_model

WORDS = ["when", "leo", "mia", "ran", "home", ",", "sat", "he", "she", "##s"]
WIDE, NARROW = {"d_model": 48, "d_mlp": 64}, {"use_bigram_table": False}


def wordpiece(folder):
    """A lowercasing WordPiece tokenizer, as SimpleStories has, of 50 tokens."""
    vocab = {word: i for i, word in enumerate(["[UNK]", "[EOS]", *WORDS, *(f"word{i}" for i in range(50 - 2 - len(WORDS)))])}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", eos_token="[EOS]").save_pretrained(folder)
    return folder


def bridges_state(points, dense, sparse, seed=5):
    generator, found = torch.Generator().manual_seed(seed), {}
    for i in range(points):
        for part, rows, columns in (("encoder", sparse, dense), ("decoder", dense, sparse)):
            found[f"bridges.{i}.{part}.linear.weight"] = torch.randn(rows, columns, generator=generator) * 0.2
            found[f"bridges.{i}.{part}.linear.bias"] = torch.randn(rows, generator=generator) * 0.1
    return found


def write_pair(folder, sparsity=None, bridges=None, trained=True, fraction=0.25):
    """A dense model, and a sparse one with its bridges, as the project's upload writes them: config.json without the places of AbsTopK."""
    dense, _, dense_weights = write(folder / "dense", NARROW, {"enable_activation_sparsity": False})
    model, sparsity = {**MODEL, **WIDE}, {**SPARSITY, **(sparsity or {})}
    weights = state_dict(model, seed=1)
    pair = folder / "pair"
    pair.mkdir()
    said = {name: sparsity[name] for name in ("enable_weight_sparsity", "target_l0_fraction", "enable_activation_sparsity", "activation_topk_fraction")}  # fmt: skip
    no_flash = {name: value for name, value in model.items() if name != "use_flash_attention"}
    (pair / "config.json").write_text(
        json.dumps(
            {
                "model_config": no_flash,
                "sparsity_config": said,
                "bridges_config": {"encoder_afrac": fraction, "d_dense": "of/dense"},
                "training_config": {"tokenizer_name": "of/stories"},
            }
        )
    )
    if trained:
        (pair / "training_config.yaml").write_text(
            yaml.safe_dump({"sparse_model": {**model, "vocab_size": None}, "sparsity": sparsity})
        )
    torch.save(weights, pair / "sparse_model.bin")
    torch.save(
        bridges or bridges_state(5, dense["d_model"], model["d_model"]),
        pair / "bridges.bin",
    )
    return pair, (dense, dense_weights), (model, sparsity, weights)


def test_a_bridged_pair_is_the_projects(tmp_path):
    source, (dense, dense_weights), (model, sparsity, weights) = write_pair(tmp_path)
    convert_checkpoint(source, tmp_path / "ours", tokenizer=wordpiece(tmp_path / "words"), dense=tmp_path / "dense")
    pair = BridgedPair.from_pretrained(tmp_path / "ours")
    ids = torch.randint(0, 50, (3, 11), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        for side, expected in (
            (pair.dense, plain_logits(dense_weights, dense, {**SPARSITY, "enable_activation_sparsity": False}, ids)),
            (pair.sparse, plain_logits(weights, model, sparsity, ids)),
        ):
            assert (side.model(ids).logits - expected).abs().max() < 1e-5
        bridges = bridges_state(5, 32, 48)
        for i in range(5):
            x = torch.randn(4, 32, generator=torch.Generator().manual_seed(i))
            z = x @ bridges[f"bridges.{i}.encoder.linear.weight"].T + bridges[f"bridges.{i}.encoder.linear.bias"]
            least = z.abs().sort(dim=-1, descending=True).values[:, 11:12]  # 12 of 48
            assert torch.allclose(pair.bridges.encode(i, x), torch.where(z.abs() >= least, z, 0.0), atol=1e-6)
            back = z @ bridges[f"bridges.{i}.decoder.linear.weight"].T + bridges[f"bridges.{i}.decoder.linear.bias"]
            assert torch.allclose(pair.bridges.decode(i, z), back, atol=1e-5)
        points, _ = stream(pair.dense, ids)
        assert tails(pair.sparse, [pair.bridges.encode(i, x) for i, x in enumerate(points)], ids).isfinite().all()
    assert pair.config.active == 0.25
    assert pair.tokenizer.encode("when leo ran", add_special_tokens=False) == [2, 3, 5]


def test_the_share_that_is_kept_is_rounded_as_there(tmp_path):
    source, *_ = write_pair(tmp_path, fraction=0.26)
    convert_checkpoint(source, tmp_path / "ours", tokenizer=wordpiece(tmp_path / "words"), dense=tmp_path / "dense")
    assert BridgedPair.from_pretrained(tmp_path / "ours").bridges.keep == 12  # of 48, where ours would keep 12.48 rounded


@pytest.mark.parametrize("trained", [True, False])
def test_where_abstopk_acts_is_taken_from_what_it_was_trained_with(trained, tmp_path):
    places = {"activation_sparsity_locations": "attn_in,mlp_neuron,resid_mid,resid_pre", "activation_topk_fraction": 0.5}
    source, _, (model, sparsity, weights) = write_pair(tmp_path, places, trained=trained)
    convert_checkpoint(source, tmp_path / "ours")
    config, *_ = read_sparse_pretrain(source)
    ids = torch.randint(0, 50, (3, 11), generator=torch.Generator().manual_seed(2))
    from sparse_circuits import CSPForCausalLM

    with torch.no_grad():
        found = CSPForCausalLM.from_pretrained(tmp_path / "ours").eval()(ids).logits
    there = sparsity if trained else {**SPARSITY, "activation_topk_fraction": 0.5}
    assert (found - plain_logits(weights, model, there, ids)).abs().max() < 1e-5
    assert ("resid_pre" in config.afrac) == trained


def test_settings_that_contradict_each_other_are_refused(tmp_path):
    source, *_ = write_pair(tmp_path)
    document = yaml.safe_load((source / "training_config.yaml").read_text())
    document["sparse_model"]["activation"] = "relu"
    (source / "training_config.yaml").write_text(yaml.safe_dump(document))
    with pytest.raises(ValueError, match=r"says activation='relu' and config\.json 'gelu'; they are not of one model"):
        convert_checkpoint(source, tmp_path / "ours")
    (source / "training_config.yaml").write_text("- 3\n")
    with pytest.raises(ValueError, match="no settings as sparse_pretrain writes them"):
        convert_checkpoint(source, tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


CHANGES = {
    "threshold": ({"bridges.0.encoder.log_eps": torch.zeros(48)}, (), "learned thresholds"),
    "more": ({"other.weight": torch.zeros(2)}, (), "which no bridge has"),
    "points": ({}, ("bridges.4.encoder.linear.bias",), "lacks encoders.4.bias"),
    "shape": (
        {"bridges.1.decoder.linear.weight": torch.zeros(31, 48)},
        (),
        r"shape \[31, 48\], the two models need \[32, 48\]",
    ),
    "nan": ({"bridges.1.encoder.linear.bias": torch.full((48,), float("nan"))}, (), "no finite numbers"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_foreign_and_damaged_bridges_are_refused(change, tmp_path):
    more, fewer, said = CHANGES[change]
    state = {name: each for name, each in {**bridges_state(5, 32, 48), **more}.items() if name not in fewer}
    source, *_ = write_pair(tmp_path, bridges=state)
    with pytest.raises(ValueError, match=said):
        convert_checkpoint(source, tmp_path / "ours", tokenizer=wordpiece(tmp_path / "words"), dense=tmp_path / "dense")
    assert not (tmp_path / "ours").exists()


def test_pairs_that_cannot_be_are_refused(tmp_path):
    source, *_ = write_pair(tmp_path, {"activation_sparsity_locations": "attn_in,resid_mid,resid_pre"})
    words = wordpiece(tmp_path / "words")
    with pytest.raises(ValueError, match=r"AbsTopK on the residual stream \(resid_post_attn, resid_pre\)"):
        convert_checkpoint(source, tmp_path / "ours", tokenizer=words, dense=tmp_path / "dense")
    with pytest.raises(FileNotFoundError, match="name its folder or Hub id"):
        convert_checkpoint(source, tmp_path / "ours", dense=tmp_path / "dense")
    with pytest.raises(FileNotFoundError, match=r"has no bridges\.bin"):
        convert_checkpoint(tmp_path / "dense", tmp_path / "ours", tokenizer=words, dense=tmp_path / "dense")
    (source / "bridges.bin").write_bytes((source / "bridges.bin").read_bytes()[:-300])
    (source / "training_config.yaml").unlink()
    done = CliRunner().invoke(
        app, ["convert", str(source), str(tmp_path / "ours"), "--tokenizer", str(words), "--dense", str(tmp_path / "dense")]
    )
    assert done.exit_code == 2
    assert "bridges.bin" in done.output
    done = CliRunner().invoke(app, ["convert", "viz_data.pt", "out", "--model", ".", "--task", "t", "--dense", "dense"])
    assert done.exit_code == 2
    assert "--dense and --tokenizer are for checkpoints" in done.output
    assert not (tmp_path / "ours").exists()


def test_models_and_their_tokenizers_come_from_the_hub_by_name(tmp_path, monkeypatch):
    source, *_ = write_pair(tmp_path)
    wordpiece(tmp_path / "words")
    hub = Hub()
    try:
        called_at(hub, monkeypatch)
        for name, folder in (("of/pair", source), ("of/dense", tmp_path / "dense"), ("of/stories", tmp_path / "words")):
            hub.repos[f"models/{name}"] = {"branches": {}, "private": None, "sdk": None}
            hub.commit(f"models/{name}", "main", {path.name: path.read_bytes() for path in folder.iterdir()}, [])
        convert_checkpoint("of/pair", tmp_path / "alone")
        assert AutoTokenizer.from_pretrained(tmp_path / "alone").encode("when mia sat", add_special_tokens=False) == [2, 4, 8]
        convert_checkpoint("of/pair", tmp_path / "ours", dense="of/dense")
        assert BridgedPair.from_pretrained(tmp_path / "ours").dense.width == 32
        del hub.repos["models/of/stories"]
        with pytest.raises(FileNotFoundError, match="of/stories is no folder, and could not be read from the Hub"):
            convert_checkpoint("of/pair", tmp_path / "none")
        assert not (tmp_path / "none").exists()
    finally:
        hub.shutdown()


class Pronouns:
    """A task as the project's are: examples at random, as token ids."""

    def __init__(self, tokenizer, constant=False, position=False):
        self.tokenizer, self.random, self.constant, self.position = tokenizer, random.Random(0), constant, position

    def generate_example(self):
        name, pronoun, other = self.random.choice([("Leo", "he", "she"), ("Mia", "she", "he")])
        if self.constant:
            pronoun, other = "he", "she"
        text = f"when {name} {self.random.choice(['ran', 'sat'])} {self.random.choice(['home', 'home home', ''])},"
        ids = self.tokenizer.encode(text, add_special_tokens=False)
        right, wrong = (self.tokenizer.encode(" " + word, add_special_tokens=False)[0] for word in (pronoun, other))
        at = len(ids) - 1 if self.position else -1
        ids = [*ids, 7, 8] if self.position else ids
        return SimpleNamespace(
            positive_ids=torch.tensor(ids), negative_ids=torch.tensor(ids), correct_token=right, incorrect_token=wrong, eval_position=at
        )  # fmt: skip


@pytest.mark.parametrize("position", [False, True])
def test_a_task_becomes_a_file_of_pairs(position, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(wordpiece(tmp_path / "words"))
    path = task_file(Pronouns(tokenizer, position=position), tokenizer, tmp_path / "pronouns.jsonl", pairs=20)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(rows) == 6  # 2 names, 2 verbs, 3 places: each prompt once
    for row in rows:
        for side in "ab":
            assert row[f"answer_{side}"] == (" he" if "leo" in row[f"prompt_{side}"] else " she")
        one, two = (tokenizer.encode(row[f"prompt_{side}"], add_special_tokens=False) for side in "ab")
        assert len(one) == len(two)
        assert one[-1] == two[-1] == tokenizer.convert_tokens_to_ids(",")
    task = load_task(path, tokenizer)
    found = task.pairs(2, "train", fewer=True)
    he, she = tokenizer.convert_tokens_to_ids(["he", "she"])
    assert {tuple(each) for each in found.answers.tolist()} == {(he, she), (she, he)}
    assert found.input_ids.max() < 50


def test_tasks_that_make_no_pairs_are_refused(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(wordpiece(tmp_path / "words"))
    with pytest.raises(ValueError, match="it may always ask for one token"):
        task_file(Pronouns(tokenizer, constant=True), tokenizer, tmp_path / "one.jsonl", pairs=4)
    with pytest.raises(ValueError, match=r"must be called NAME\.jsonl"):
        task_file(Pronouns(tokenizer), tokenizer, tmp_path / "one.csv")
    fixed = SimpleNamespace(random=random.Random(0))

    def example():
        right = fixed.random.choice([9, 10])
        return SimpleNamespace(positive_ids=[11, right], correct_token=right, incorrect_token=19 - right)

    with pytest.raises(ValueError, match="does not read"):
        task_file(SimpleNamespace(generate_example=example), tokenizer, tmp_path / "one.jsonl", pairs=4)
    assert not list(tmp_path.glob("*.jsonl"))


def test_embeddings_may_be_padded_and_no_more(tmp_path):
    from sparse_circuits.convert.sparse_pretrain import save_tokenizer

    words = wordpiece(tmp_path / "words")
    save_tokenizer(words, tiny_model(vocab_size=64).config, tmp_path / "one")
    for size in (49, 178):
        with pytest.raises(ValueError, match=f"has 50 tokens and the model {size}"):
            save_tokenizer(words, tiny_model(vocab_size=size).config, tmp_path / "two")
