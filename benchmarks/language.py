"""What models know of Python: loss by domain, bits per byte, and whether what they complete is Python.

python benchmarks/language.py MODEL [MODEL ...] --corpus runs/python=0.6 --corpus idioms:240000=0.4
"""

from __future__ import annotations

import math
from typing import Any

import torch

from sparse_circuits.corpora.mixture import load_corpus
from sparse_circuits.corpora.sources import held_out

CHARACTERS = 200_000  # of each domain


def domain(source: str, name: str) -> str:
    if source.startswith("idioms"):
        return "idioms"
    return "other packages" if name.startswith("project:") else "standard library"


def held_out_texts(corpora: dict[str, float], characters: int = CHARACTERS) -> dict[str, dict[str, str]]:
    """Held-out texts by domain, whole files in the order of a hash, about so many characters; of long files the beginning."""
    found: dict[str, dict[str, str]] = {}
    for source in corpora:
        for name, text in load_corpus(source).texts.items():
            if held_out(name):
                found.setdefault(domain(source, name), {})[name] = text[:20_000]
    generator = torch.Generator().manual_seed(0)
    for key, texts in found.items():
        names, total, kept = sorted(texts), 0, {}
        for i in torch.randperm(len(names), generator=generator).tolist():
            if total >= characters:
                break
            kept[names[i]], total = texts[names[i]], total + len(texts[names[i]])
        found[key] = kept
    return found


@torch.no_grad()
def bits_per_byte(model: Any, tokenizer: Any, texts: dict[str, str], block: int = 256) -> float:
    """Bits per byte of texts, in windows of `block` tokens, each after the end-of-text token, which is not counted."""
    windows = []
    for text in texts.values():
        ids = tokenizer.encode(text, split_special_tokens=True, verbose=False)
        windows += [[tokenizer.eos_token_id, *ids[i : i + block]] for i in range(0, len(ids), block)]
    nats = 0.0
    windows.sort(key=len)
    for i in range(0, len(windows), 16):
        rows = windows[i : i + 16]
        longest = max(map(len, rows))
        ids = torch.tensor([row + [tokenizer.eos_token_id] * (longest - len(row)) for row in rows])
        log_probabilities = model(ids).logits[:, :-1].float().log_softmax(-1)
        taken = log_probabilities.gather(2, ids[:, 1:, None])[..., 0]
        counts = torch.arange(longest - 1) < torch.tensor([[len(row) - 1] for row in rows])
        nats -= float((taken * counts).double().sum())
    return nats / math.log(2) / sum(len(text.encode()) for text in texts.values())
