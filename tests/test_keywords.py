"""What reaches a model besides ids and masks: caches by either name, packed sequences, continuous batching. Honoured, or refused by name."""

import warnings

import pytest
import torch
from transformers import CompileConfig, GenerationConfig
from transformers.cache_utils import DynamicCache, StaticCache
from transformers.generation import ContinuousBatchingConfig

from tiny import tiny_ids, tiny_model

close = {"atol": 1e-5, "rtol": 1e-5}


def greedy(**settings):
    return GenerationConfig(max_new_tokens=10, do_sample=False, pad_token_id=0, eos_token_id=None, **settings)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_continuous_batching_generates_what_generate_does(features, attention):
    model = tiny_model(attn_implementation=attention, **features)
    prompts = [tiny_ids(1, n, seed=n)[0].tolist() for n in (5, 17, 1, 9)]
    small = ContinuousBatchingConfig(
        num_blocks=64, page_size=16, max_batch_tokens=64, max_memory_percent=0.01
    )  # else: all memory
    outputs = model.generate_batch(prompts, generation_config=greedy(), continuous_batching_config=small, progress_bar=False)
    found = {tuple(out.prompt_ids): out.generated_tokens for out in outputs.values()}
    for prompt in prompts:
        alone = model.generate(torch.tensor([prompt]), generation_config=greedy(), attention_mask=torch.ones(1, len(prompt)))
        assert found[tuple(prompt)] == alone[0, len(prompt) :].tolist()


@pytest.mark.parametrize(
    "keyword",
    [
        "attention_masks",
        "head_mask",
        "softcap",
        "sliding_window",
        "position_bias",
        "encoder_hidden_states",
        "block_table",
        "seq_idx",
    ],
)
@pytest.mark.parametrize("base", [False, True])
def test_a_keyword_that_nothing_reads_is_refused_by_name(keyword, base):
    model = tiny_model()
    with pytest.raises(ValueError, match=f"{keyword} is no argument"):
        (model.transformer if base else model)(tiny_ids(), **{keyword: torch.ones(3)})


def test_two_way_attention_is_refused_not_ignored():
    for attention in ("sdpa", "eager"):
        with pytest.raises(ValueError, match="is_causal is no argument"):
            tiny_model(attn_implementation=attention)(tiny_ids(), is_causal=False)


@pytest.mark.parametrize("kind", [lambda c: DynamicCache(config=c), lambda c: StaticCache(config=c, max_cache_len=32)])
def test_a_cache_is_taken_by_either_name(features, kind):
    model, ids = tiny_model(**features), tiny_ids(2, 17)
    whole = model(ids).logits
    for name in ("past_key_values", "cache"):
        cache = kind(model.config)
        for part in ids.split([8, 1, 8], dim=1):
            logits = model(ids[:, : part.shape[1]] * 0 + part, **{name: cache}, use_cache=True).logits
        torch.testing.assert_close(logits, whole[:, -8:], **close)
    with pytest.raises(ValueError, match="two names of one argument"):
        model(ids, past_key_values=kind(model.config), cache=kind(model.config))


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("told", ["positions", "starts", "both"])
def test_packed_sequences_are_as_long_as_memory_allows(features, told, cached):
    model = tiny_model(**{**features, "block_size": 16})
    ids = tiny_ids(1, 24)
    positions = torch.tensor([[*range(12), *range(12)]])
    starts = torch.tensor([0, 12, 24], dtype=torch.int32)
    given = {} if told == "starts" else {"position_ids": positions}
    if told != "positions":
        given |= {"cu_seq_lens_q": starts, "cu_seq_lens_k": starts, "max_length_q": 12, "max_length_k": 12}
    packed = model(ids, use_cache=cached, **given).logits
    for half, alone in ((packed[:, :12], ids[:, :12]), (packed[:, 12:], ids[:, 12:])):
        torch.testing.assert_close(half, model(alone).logits, **close)


def test_starts_and_positions_that_disagree_are_refused():
    starts = torch.tensor([0, 5, 24], dtype=torch.int32)
    with pytest.raises(ValueError, match="do not agree"):
        tiny_model()(tiny_ids(1, 24), position_ids=torch.tensor([[*range(12), *range(12)]]), cu_seq_lens_q=starts)


def test_a_position_beyond_the_table_is_refused_and_a_padded_batch_is_not():
    model = tiny_model(position_embedding_type="added", block_size=16)
    with pytest.raises(ValueError, match="17 tokens and the position table 16"):
        model(tiny_ids(1, 3), position_ids=torch.tensor([[0, 1, 16]]))
    ids = tiny_ids(1, 20)
    mask = torch.ones_like(ids)
    mask[:, :8] = 0
    padded = model(ids, attention_mask=mask).logits[:, 8:]
    torch.testing.assert_close(padded, model(ids[:, 8:]).logits, **close)


@pytest.mark.parametrize("cache", [None, "static"])
def test_compiled_generation_is_one_graph_and_the_same(features, cache):
    model, ids = tiny_model(**features), tiny_ids(2, 5)
    torch._dynamo.reset()
    settings = {} if cache is None else {"compile_config": CompileConfig(fullgraph=True, backend="eager", mode=None)}
    if cache is not None:
        settings["compile_config"]._compile_all_devices = True
    torch._dynamo.utils.counters.clear()
    out = model.generate(ids, generation_config=greedy(cache_implementation=cache, **settings))
    assert (torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0) == (cache is not None)
    want = ids
    with torch.no_grad():
        for _ in range(10):
            want = torch.cat([want, model(want, use_cache=False).logits[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(out, want)


def test_nothing_warns_on_an_ordinary_call(features):
    model = tiny_model(**features)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        out = model(tiny_ids(), attention_mask=torch.ones_like(tiny_ids()))
        cache = getattr(out, "past_key_values", None) if "past_key_values" in out else out.cache
        assert cache is not None
