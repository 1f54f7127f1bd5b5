import math

import pytest
import torch

from sparse_circuits import CSPTokenizer
from sparse_circuits.training.corpus import held_out, pack, read_sources, sample_blocks, split_blocks
from sparse_circuits.training.ngrams import bigram_log_probabilities, ngram_losses, unigram_log_probabilities
from tiny import ROOT


@pytest.fixture
def folder(tmp_path):
    for i in range(30):
        (tmp_path / f"m{i}.py").write_text(f"def f{i}(x):\n    return x + {i}\n")
    (tmp_path / "copy.py").write_text((tmp_path / "m3.py").read_text())
    (tmp_path / "latin.py").write_bytes(b"# caf\xe9\n")
    (tmp_path / "empty.py").write_text("\n")
    (tmp_path / "huge.py").write_text("x = 1\n" * 200_000)
    (tmp_path / "note.txt").write_text("not source")
    (tmp_path / "package.py").mkdir()
    (tmp_path / "lock.py").symlink_to("nowhere")
    for hidden in (".venv", "site-packages"):
        (tmp_path / hidden).mkdir()
        (tmp_path / hidden / "other.py").write_text("x = 1\n")
    return tmp_path


def test_reading_names_what_it_leaves_out(folder):
    sources = read_sources(folder)
    assert set(sources.left_out) == {
        "m3.py",
        "latin.py",
        "empty.py",
        "huge.py",
        "package.py",
        "lock.py",
    }  # copy.py sorts before m3.py
    assert len(sources.texts) == 30
    assert "left out 6" in sources.summary()


def test_splits_are_by_file_and_disjoint(folder):
    tokenizer = CSPTokenizer.from_folder(ROOT)
    sources = read_sources(folder)
    train, rest = split_blocks(sources, tokenizer, 8, percent=30)
    texts = [tokenizer.decode(part.reshape(-1)) for part in (train, rest)]
    for name in sources.texts:
        number = name[1:-3] if name != "copy.py" else "3"
        assert (f"def f{number}(" in texts[1]) <= held_out(name, 30)
        assert (f"def f{number}(" in texts[0]) <= (not held_out(name, 30))


def test_packing_loses_only_the_tail():
    blocks = pack(iter([[9, 1, 2], [9, 3, 4, 5]]), 3)
    assert blocks.tolist() == [[9, 1, 2], [9, 3, 4]]
    with pytest.raises(ValueError, match="fewer than one block"):
        pack(iter([[1]]), 3)


def test_missing_corpora_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="is no folder"):
        read_sources(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"holds no readable \.py file"):
        read_sources(tmp_path)


def test_ngrams_by_hand():
    train, rest = torch.tensor([[0, 1, 0, 1, 2]]), torch.tensor([[1, 2]])
    unigram = unigram_log_probabilities(train, 3).exp()
    torch.testing.assert_close(unigram, torch.tensor([3 / 8, 3 / 8, 2 / 8]))
    bigram = bigram_log_probabilities(train, 3, strength=2.0).exp()
    assert bigram[1, 2].item() == pytest.approx((1 + 2 * 2 / 8) / (2 + 2))
    torch.testing.assert_close(bigram.sum(1), torch.ones(3))
    losses = ngram_losses(train, rest, 3)
    assert losses["unigram"] == pytest.approx(-math.log(2 / 8), rel=1e-6)


def test_a_sample_is_of_training_files_in_random_order(folder):
    tokenizer = CSPTokenizer.from_folder(ROOT)
    sources = read_sources(folder)
    blocks = sample_blocks(sources, tokenizer, 8, 40)
    assert blocks.shape == (5, 8)
    assert torch.equal(blocks, sample_blocks(sources, tokenizer, 8, 40))
    assert not torch.equal(blocks, sample_blocks(sources, tokenizer, 8, 40, seed=1))
    text = tokenizer.decode(sample_blocks(sources, tokenizer, 8, 10**6).flatten())
    seen = {name for name in sources.texts if sources.texts[name] in text}
    assert seen
    assert not any(held_out(name) for name in seen)
