"""lm-evaluation-harness runs on a saved folder: a tiny local task, checked by hand."""

import json

import pytest
import torch
from transformers import AutoTokenizer

from sparse_circuits import CSPForCausalLM
from tiny import ROOT

lm_eval = pytest.importorskip("lm_eval", reason="the extra `ecosystem` is part of make test")

ROWS = [
    {"text": "for i in range(len(", "choices": ["x)):", "class"], "label": 0},
    {"text": "import os\nimport", "choices": [" sys", ")))"], "label": 0},
    {"text": "def f(self", "choices": ["while", "):\n"], "label": 1},
    {"text": "return", "choices": [" self", "((("], "label": 1},
]


def test_accuracy_is_what_the_model_says(tmp_path):
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    (tmp_path / "endings.yaml").write_text(
        f"""task: python_endings
dataset_path: json
dataset_kwargs:
  data_files:
    test: {tmp_path / "rows.jsonl"}
test_split: test
output_type: multiple_choice
doc_to_text: text
doc_to_choice: choices
doc_to_target: label
target_delimiter: ""
metric_list:
  - metric: acc
"""
    )
    from lm_eval.tasks import TaskManager

    found = lm_eval.simple_evaluate(
        model="hf",
        model_args={"pretrained": str(ROOT), "trust_remote_code": True, "dtype": "float32", "max_length": 128},
        tasks=["python_endings"],
        task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
        batch_size=2,
        device="cpu",
        bootstrap_iters=0,
    )
    model, tokenizer = CSPForCausalLM.from_pretrained(ROOT).eval(), AutoTokenizer.from_pretrained(ROOT)
    right = 0
    for row in ROWS:
        scores = []
        for choice in row["choices"]:
            ids = tokenizer(row["text"] + choice, return_tensors="pt")["input_ids"]
            start = len(tokenizer(row["text"])["input_ids"])
            with torch.no_grad():
                log = model(ids).logits[0].log_softmax(-1)
            scores.append(sum(float(log[i - 1, ids[0, i]]) for i in range(start, ids.shape[1])))
        right += int(scores.index(max(scores)) == row["label"])
    assert found["results"]["python_endings"]["acc,none"] == pytest.approx(right / len(ROWS))
