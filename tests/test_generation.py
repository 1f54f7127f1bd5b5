"""What `generate` and pipelines do with any causal model of transformers."""

import pytest
import torch
from transformers import GenerationConfig, TextStreamer, pipeline

from sparse_circuits import CSPTokenizer
from tiny import tiny_ids, tiny_model


@pytest.fixture(scope="module")
def tokenizer():
    return CSPTokenizer.train_on(
        ["def add(a, b):\n    return a + b\n", "for i in range(10):\n    print('hello', i)\n"] * 20, 280
    )


@pytest.fixture(scope="module")
def model(tokenizer):
    end = tokenizer.eos_token_id
    ids = {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end}
    return tiny_model(vocab_size=280, sink=True, enable_bigram_table=True, position_embedding_type="added", **ids)


def greedy_by_hand(model, ids, steps):
    for _ in range(steps):
        ids = torch.cat([ids, model(ids, use_cache=False).logits[:, -1:].argmax(-1)], dim=1)
    return ids


def free(**settings):
    """A generation config that never stops early, so that lengths are known."""
    return GenerationConfig(**{"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, "eos_token_id": None, **settings})


@pytest.mark.parametrize("cache", [None, "static"])
def test_greedy_equals_a_loop_without_cache(features, cache):
    model, ids = tiny_model(**features), tiny_ids(2, 5)
    with torch.no_grad():
        out = model.generate(ids, generation_config=free(cache_implementation=cache))
        assert torch.equal(out, greedy_by_hand(model, ids, 12))


def test_left_padded_batch_generates_what_each_row_does_alone(features):
    model = tiny_model(**features)
    rows = [tiny_ids(1, n, seed=n)[0] for n in (3, 9, 6)]
    ids = torch.stack([torch.cat([row.new_zeros(9 - len(row)), row]) for row in rows])
    mask = torch.stack([torch.cat([row.new_zeros(9 - len(row)), torch.ones_like(row)]) for row in rows])
    out = model.generate(ids, attention_mask=mask, generation_config=free())
    for row, generated in zip(rows, out, strict=True):
        alone = model.generate(row[None], attention_mask=torch.ones_like(row[None]), generation_config=free())
        assert torch.equal(alone[0, len(row) :], generated[9:])


def test_beam_search_finds_at_least_the_greedy_score(features):
    model, ids = tiny_model(**features), tiny_ids(2, 5)

    def score(sequences):
        log_probabilities = model(sequences).logits.log_softmax(-1)[:, 4:-1]
        return log_probabilities.gather(-1, sequences[:, 5:, None]).sum((1, 2))

    with torch.no_grad():
        wide = model.generate(ids, generation_config=free(max_new_tokens=4, num_beams=64, length_penalty=0.0))
        greedy = model.generate(ids, generation_config=free(max_new_tokens=4))
        assert (score(wide) >= score(greedy) - 1e-4).all()


def test_sampling_is_seeded_and_respects_top_k(features):
    model, ids = tiny_model(**features), tiny_ids(1, 5)
    torch.manual_seed(3)
    first = model.generate(ids, generation_config=free(do_sample=True))
    torch.manual_seed(3)
    assert torch.equal(first, model.generate(ids, generation_config=free(do_sample=True)))
    assert torch.equal(
        model.generate(ids, generation_config=free(do_sample=True, top_k=1)), model.generate(ids, generation_config=free())
    )


def test_assisted_decoding_equals_greedy(features):
    model, ids = tiny_model(**features), tiny_ids(1, 5)
    plain = model.generate(ids, generation_config=free())
    assert torch.equal(model.generate(ids, assistant_model=tiny_model(seed=9, **features), generation_config=free()), plain)
    assert torch.equal(model.generate(ids, generation_config=free(prompt_lookup_num_tokens=3)), plain)


def test_stop_strings_and_streamer(model, tokenizer, capsys):
    inputs = tokenizer("def add", return_tensors="pt")
    full = tokenizer.decode(model.generate(**inputs, generation_config=free(max_new_tokens=30))[0])
    stop = next(c for c in full[len("def add") : -3] if c.isascii() and c.isprintable())
    streamer = TextStreamer(tokenizer)
    out = model.generate(
        **inputs, generation_config=free(max_new_tokens=30, stop_strings=[stop]), tokenizer=tokenizer, streamer=streamer
    )
    text = tokenizer.decode(out[0])
    assert stop in text[len("def add") :]
    assert full.startswith(text)
    assert len(text) < len(full)
    assert capsys.readouterr().out.strip("\n") == text.strip("\n")


def test_generation_stops_at_the_end_of_text(model, tokenizer):
    inputs = tokenizer(["x", "def f(x):"], return_tensors="pt", padding=True)
    with torch.no_grad():
        model.bigram_table.logit_bias[:, tokenizer.eos_token_id] += 100
        out = model.generate(**inputs, max_new_tokens=20)
        model.bigram_table.logit_bias[:, tokenizer.eos_token_id] -= 100
    assert out.shape[1] == inputs["input_ids"].shape[1] + 1


def test_pipeline(model, tokenizer):
    generate = pipeline("text-generation", model=model, tokenizer=tokenizer)
    result = generate(["for i", "def add(a"], max_new_tokens=5, do_sample=False, batch_size=2)
    assert result[0][0]["generated_text"].startswith("for i")
    alone = generate("for i", max_new_tokens=5, do_sample=False)
    assert alone[0]["generated_text"] == result[0][0]["generated_text"]


@pytest.mark.parametrize("cache", [None, "static"])
def test_generating_past_the_position_table_is_refused_in_words(cache):
    model = tiny_model(position_embedding_type="added")
    with pytest.raises(ValueError, match="position table 64"):
        model.generate(tiny_ids(1, 60), generation_config=free(cache_implementation=cache))
