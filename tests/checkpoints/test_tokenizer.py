import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from sparse_circuits import CSPTokenizer
from tiny import ROOT

SHIPPED = CSPTokenizer.from_folder(ROOT)


def test_reference_tokenizer_gives_the_same_ids_both_ways(reference):
    tokenizer = CSPTokenizer.from_folder(reference / "tokenizer")
    cases = json.loads((reference / "tokenizer" / "encodings.json").read_text())
    assert len(cases) > 10
    for case in cases:
        assert tokenizer.encode(case["text"]) == case["ids"]
        assert tokenizer.decode(case["ids"]) == case["text"]
    assert (len(tokenizer), tokenizer.eos_token_id, tokenizer.pad_token_id) == (2048, 2047, 2047)


@settings(deadline=None)
@given(st.text() | st.binary().map(lambda data: data.decode("latin-1")))
def test_lossless_on_any_text(text):
    ids = SHIPPED.encode(text, split_special_tokens=True)
    assert SHIPPED.decode(ids) == text
    assert all(0 <= token < 2047 for token in ids)


def test_special_text():
    assert SHIPPED.encode("a<|endoftext|>") == [*SHIPPED.encode("a"), 2047]
    split = SHIPPED.encode("<|endoftext|>", split_special_tokens=True)
    assert 2047 not in split
    assert SHIPPED.decode(split) == "<|endoftext|>"
    assert SHIPPED.decode([2047], skip_special_tokens=True) == ""


def test_line_ends_are_single_tokens_with_their_punctuation():
    assert [SHIPPED.decode([t]) for t in SHIPPED.encode("if x:\n    return y\n")][:3] == ["if", " x", ":\n"]


def test_batches_pad_on_the_left():
    batch = SHIPPED(["x", "x = [1, 2]"], padding=True)
    assert set(batch) == {"input_ids", "attention_mask"}
    assert batch["attention_mask"][0] == [0] * (len(batch["input_ids"][1]) - 1) + [1]
    assert batch["input_ids"][0][0] == SHIPPED.pad_token_id


@pytest.mark.parametrize("trust", [None, False, True])
def test_auto_tokenizer_loads_the_saved_one(tmp_path, trust):
    SHIPPED.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.py"))
    loaded = AutoTokenizer.from_pretrained(tmp_path, trust_remote_code=trust)
    text = "class A:\n\tdef f(self): return 'é' # 日本\r\n"
    assert loaded.encode(text) == SHIPPED.encode(text)
    assert loaded.decode(loaded.encode(text)) == text
    assert (loaded.pad_token, loaded.padding_side) == ("<|endoftext|>", "left")
    assert isinstance(CSPTokenizer.from_pretrained(tmp_path), CSPTokenizer)
    assert CSPTokenizer.from_pretrained(tmp_path).encode(text) == SHIPPED.encode(text)


def test_training_is_deterministic_and_ends_with_the_end_token():
    texts = ["def f(x):\n    return x + 1\n" * 3, "print('a', \"b\")\n" * 5]
    one, other = CSPTokenizer.train_on(texts, 270), CSPTokenizer.train_on(texts, 270)
    assert one.get_vocab() == other.get_vocab()
    assert (len(one), one.eos_token_id) == (270, 269)


def test_training_errors_name_the_fix():
    with pytest.raises(ValueError, match="at least 257"):
        CSPTokenizer.train_on(["x"], 256)
    with pytest.raises(ValueError, match="no text"):
        CSPTokenizer.train_on([], 300)
    with pytest.raises(ValueError, match="give more text or a smaller size"):
        CSPTokenizer.train_on(["ab"], 2048)


def test_missing_and_mismatched_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"vocab\.bpe does not exist"):
        CSPTokenizer.from_folder(tmp_path)
    (tmp_path / "vocab.bpe").write_text("#version\nq z\n")
    with pytest.raises(FileNotFoundError, match=r"encoder\.json does not exist"):
        CSPTokenizer.from_folder(tmp_path)
    (tmp_path / "encoder.json").write_text('{"q": 0, "z": 1}')
    with pytest.raises(ValueError, match="different tokenizers"):
        CSPTokenizer.from_folder(tmp_path)
