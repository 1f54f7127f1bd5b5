import math

import pytest
import torch

from sparse_circuits import CSPTokenizer
from sparse_circuits.corpora.blocks import pack, sample_blocks, split_blocks
from sparse_circuits.corpora.mixture import _documents, load_corpus
from sparse_circuits.corpora.ngrams import bigram_log_probabilities, ngram_losses, unigram_log_probabilities
from sparse_circuits.corpora.sources import held_out, plain_text, read_sources
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


def spellings(text):
    """A text as other systems save it: a byte order mark, other line ends."""
    return {
        "mark": "\ufeff" + text, "dos": text.replace("\n", "\r\n"), "mac": text.replace("\n", "\r"),
        "both": "\ufeff" + text.replace("\n", "\r\n"), "mixed": text.replace("\n", "\r\n", 1).replace("2))\n", "2))\r"),
    }  # fmt: skip


TEXT = "def f(x, y):\n    return x + y\n\nprint(f(1, 2))\n"


@pytest.mark.parametrize("kind", spellings(TEXT))
def test_every_source_reads_the_same_text_however_it_is_spelt(kind, tmp_path):
    """Folders, globs, files and documents; models see neither byte order marks nor carriage returns."""
    spelt = spellings(TEXT)[kind]
    assert plain_text(spelt) == TEXT
    (tmp_path / "a.py").write_bytes(spelt.encode())
    for corpus in (tmp_path, tmp_path / "*.py", tmp_path / "a.py"):
        assert list(load_corpus(str(corpus)).texts.values()) == [TEXT]
    assert list(_documents([spelt, TEXT], "d").texts.values()) == [TEXT]  # and a copy is a copy
    (tmp_path / "b.py").write_bytes(TEXT.encode())
    assert read_sources(tmp_path).left_out == {"b.py": "a copy of another file"}
    tokenizer = CSPTokenizer.from_folder(ROOT)
    assert tokenizer.encode(plain_text(spelt)) == tokenizer.encode(TEXT)


def test_marks_inside_of_a_text_stay(tmp_path):
    assert plain_text("a\ufeffb\x0b\x0c\u2028c\n") == "a\ufeffb\x0b\x0c\u2028c\n"
    assert plain_text("\ufeff\ufeffa") == "\ufeffa"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"# -*- coding: latin-1 -*-\nname = '\xe9'\n", "not UTF-8"),
        (b"# -*- coding: latin-1 -*-\nname = '\xc3\xa9'\n", "not UTF-8"),  # bytes that could be UTF-8, but are not
        (b"#!/usr/bin/python\n# vim: set fileencoding=cp1252 :\nname = '\xc3\xa9'\n", "not UTF-8"),
        (b"# coding: no-such-encoding\nname = '\xc3\xa9'\n", "not UTF-8"),
        ("name = 'é'\n".encode("utf-16"), "not UTF-8"),
        (b"# -*- coding: latin-1 -*-\nname = 'e'\n", None),
        (b"# -*- coding: utf-8 -*-\nname = '\xc3\xa9'\n", None),
        (b"\xef\xbb\xbf# -*- coding: utf-8 -*-\nname = '\xc3\xa9'\n", None),
        (b"\xef\xbb\xbf\r\n", "empty"),
    ],
)
def test_other_encodings_are_left_out_by_name(data, reason, tmp_path):
    (tmp_path / "x.py").write_bytes(data)
    (tmp_path / "y.py").write_text("y = 1\n")
    assert read_sources(tmp_path).left_out == ({"x.py": reason} if reason else {})


def test_documents_that_are_no_unicode_are_left_out_by_name():
    assert _documents(["\ud800 = 1\n", "x = 1\n"], "d").left_out == {"d/0": "no Unicode"}
