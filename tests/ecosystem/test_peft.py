"""LoRA through peft: refused under the callback, merged and projected back with the loss before and after."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import Trainer, default_data_collator

from sparse_circuits import SparsityConfig, WeightSparsityCallback
from sparse_circuits.corpora.blocks import TokenBlocks
from sparse_circuits.training import measured, merge_and_project, project_, sparse_tensors
from tiny import tiny_ids, tiny_model

MODULES = ["c_attn", "c_fc", "c_proj"]
BLOCKS = tiny_ids(64, 16)


def adapted(**settings):
    model = tiny_model()
    counts = project_(model, 0.25, min_alive=2)
    return get_peft_model(model, LoraConfig(target_modules=MODULES, r=4, init_lora_weights=False, **settings)), counts


def arguments(folder):
    from transformers import TrainingArguments

    return TrainingArguments(str(folder), max_steps=10, per_device_train_batch_size=8, learning_rate=0.01, report_to="none", use_cpu=True,
                             save_strategy="no", disable_tqdm=True, remove_unused_columns=False)  # fmt: skip


def test_the_callback_refuses_adapters_by_name(tmp_path):
    for model in (adapted()[0], tiny_model()):
        if not hasattr(model, "peft_config"):
            model.add_adapter(LoraConfig(target_modules=MODULES))  # transformers' own way
        trainer = Trainer(
            model,
            arguments(tmp_path),
            train_dataset=TokenBlocks(BLOCKS),
            callbacks=[WeightSparsityCallback(SparsityConfig(0.25))],
        )
        with pytest.raises(ValueError, match="merge_and_project"):
            trainer.train()


@pytest.mark.parametrize("settings", [{}, {"modules_to_save": ["lm_head"]}, {"bias": "all"}])
def test_merged_and_projected_has_the_nonzeros_that_it_had(settings, tmp_path):
    model, counts = adapted(**settings)
    trainer = Trainer(model, arguments(tmp_path), train_dataset=TokenBlocks(BLOCKS), data_collator=default_data_collator)
    trainer.train()
    if "bias" in settings:
        with pytest.raises(ValueError, match="bias was trained itself"):
            merge_and_project(model)
    merged, report = merge_and_project(model, BLOCKS[:16], counts=counts if "bias" in settings else None)
    assert type(merged).__name__ == "CSPForCausalLM"
    assert {tensor.name: int(tensor.parameter.count_nonzero()) for tensor in sparse_tensors(merged)} == counts
    assert (
        report.nonzeros_merged > 2 * report.nonzeros_before == 2 * report.nonzeros == 2 * measured(sparse_tensors(merged))["l0"]
    )
    with torch.no_grad():
        assert float(merged(BLOCKS[:16], labels=BLOCKS[:16]).loss) == pytest.approx(report.loss, rel=1e-5)
    assert report.loss_adapted < report.loss  # what it costs


def test_without_adapters_there_is_nothing_to_merge():
    with pytest.raises(ValueError, match="no adapters that can be merged"):
        merge_and_project(tiny_model())
