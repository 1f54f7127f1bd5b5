import inspect
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparse_circuits import CSPConfig, CSPForCausalLM
from sparse_circuits.convert import config_from_openai
from sparse_circuits.wiring_csp import LOCATIONS
from tiny import FEATURES, REFERENCE, tiny_config


def test_defaults_build():
    config = CSPConfig()
    assert (config.d_mlp, config.afrac, config.tie_word_embeddings) == (4 * config.d_model, {}, False)


def test_round_trip(features, tmp_path):
    config = tiny_config(**features)
    config.save_pretrained(tmp_path)
    again = CSPConfig.from_pretrained(tmp_path)
    assert again.to_dict() == config.to_dict()


@pytest.mark.parametrize(("alias", "name"), sorted(CSPConfig.attribute_map.items()))
def test_transformers_names_are_aliases(alias, name):
    value = "relu" if name == "activation_type" else 24
    config = CSPConfig(**{alias: value})
    assert getattr(config, name) == getattr(config, alias) == value


IMPOSSIBLE = [
    ({"n_layer": 0}, "n_layer is 0"),
    ({"d_model": 2.5}, "d_model is 2.5"),
    ({"vocab_size": True}, "vocab_size is True"),
    ({"d_mlp": -1}, "d_mlp is -1"),
    ({"activation_type": "swish"}, "activation_type is 'swish'"),
    ({"residual_activation_type": "gelu"}, "residual_activation_type"),
    ({"norm_type": "batch"}, "norm_type is 'batch'"),
    ({"position_embedding_type": "rotary"}, "position_embedding_type is 'rotary'"),
    ({"position_embedding_type": "concatenated"}, "needs d_pos_emb"),
    ({"position_embedding_type": "added", "d_pos_emb": 8}, "d_pos_emb=8 only has a meaning"),
    ({"sinusoidal_positions": True}, "sinusoidal_positions=True needs"),
    ({"afrac": {"attn": 0.5}}, "afrac names 'attn'"),
    ({"afrac": {"attn_in": 1.5}}, "afrac\\['attn_in'\\] is 1.5"),
    ({"afrac": {"attn_in": None}}, "must be a fraction"),
    ({"dropout": 1.0}, "dropout is 1.0"),
    ({"sink": "yes"}, "sink is 'yes'"),
    ({"eos_token_id": 2048}, "eos_token_id is 2048"),
    ({"bigram_padding_idx": 3}, "bigram_padding_idx is set without a bigram table"),
    ({"n_layers": 3}, "did you mean 'n_layer'"),
    ({"enable_bigram": True}, "did you mean 'enable_bigram_table'"),
    ({"hidden_size": 3, "d_model": 5}, "name the same setting"),
    ({"hidden_size": 512, "d_model": 256}, "name the same setting"),
    ({"afrac": 0.25}, "afrac is 0.25; it must be a dict from AbsTopK locations"),
    ({"provenance": "x"}, "provenance is 'x'"),
    ({"use_cache": "x"}, "use_cache is 'x'"),
    ({"learnable_bigram_table": False}, "no table to freeze"),
    ({"initializer_range": float("nan")}, "initializer_range"),
]


@pytest.mark.parametrize(("settings", "message"), IMPOSSIBLE, ids=[str(s) for s, _ in IMPOSSIBLE])
def test_impossible_settings_are_refused_in_one_sentence(settings, message):
    with pytest.raises(ValueError, match=message) as caught:
        CSPConfig(**settings)
    assert "\n" not in str(caught.value)


@given(st.fixed_dictionaries({location: st.floats(0, 1) for location in LOCATIONS}), st.integers(1, 40), st.integers(1, 9))
def test_k_of_every_site_is_the_floor_of_its_fraction(afrac, d_model, n_head):
    config = tiny_config(afrac=afrac, d_model=d_model, n_head=n_head, n_layer=1)
    sites = CSPForCausalLM(config).node_sites()
    assert sites["0.attn.act_in"].k == int(afrac["attn_in"] * d_model)
    assert sites["0.attn.q"].k == int(afrac["attn_q"] * n_head * 8)
    assert sites["0.mlp.post_act"].k == int(afrac["mlp_neuron"] * 64)
    assert sites["final_resid"].k == d_model


def test_keys_of_transformers_are_not_misspellings():
    config = CSPConfig(sep_token_id=None, cls_token_id=None, decoder_start_token_id=None, output_hidden_states=False)
    assert CSPConfig(**config.to_dict()).to_dict() == config.to_dict()


def test_features_of_the_fixtures_cover_every_setting():
    changed = {key for settings in FEATURES.values() for key in settings}
    fixed = {"vocab_size", "block_size", "n_layer", "n_head", "d_head", "d_model", "d_mlp", "use_cache", "initializer_range"}
    fixed |= {
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
        "tokenizer_name",
        "provenance",
        "dropout",
        "ln_bias",
        "sparse_weights",
    }
    own = set(inspect.signature(CSPConfig.__init__).parameters) - {"self", "kwargs"}
    assert own - fixed - changed == {"learnable_bigram_table"}


@pytest.mark.parametrize("path", sorted(REFERENCE.glob("openai_configs/*.json")), ids=lambda path: path.stem)
def test_released_configs_become_valid(path):
    beeg = json.loads(path.read_text())
    config = config_from_openai(beeg)
    assert (config.d_model, config.n_layer, config.n_head) == (beeg["d_model"], beeg["n_layer"], beeg["n_head"])
    assert set(config.afrac.values()) == ({beeg["afrac"]} if beeg["afrac"] else set())
    assert config.position_embedding_type == ("added" if beeg.get("d_pos_emb") is None else "concatenated")
    assert config.sink is beeg.get("sink", False)
    assert config.provenance["pfrac"] == beeg["pfrac"]
    assert (config.norm_type, config.tie_word_embeddings, config.enable_bigram_table) == ("rms_norm", False, True)


def test_a_config_that_names_attention_code_to_download_is_refused(tmp_path):
    """CVE-2026-4372: transformers before 5.3 runs it without trust."""
    tiny_config().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "_attn_implementation_internal": "someone/kernels"}))
    with pytest.raises(ValueError, match="_attn_implementation_internal is no setting"):
        CSPConfig.from_pretrained(tmp_path)
