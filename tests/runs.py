"""Short runs of weight-sparse training on fixed blocks."""

import torch
from transformers import Trainer, TrainingArguments, default_data_collator

from sparse_circuits import SparsityConfig, WeightSparsityCallback
from sparse_circuits.corpora.blocks import TokenBlocks
from tiny import ALL_SITES, tiny_model

STEPS, BATCH = 20, 4


SPARSITY = SparsityConfig(density=0.25, embedding_density=0.5, min_alive=2, anneal_start=0.1)


FEATURES = {
    "sink": True,
    "enable_bigram_table": True,
    "afrac": dict.fromkeys(ALL_SITES, 0.5),
    "position_embedding_type": "added",
}


BLOCKS = torch.randint(0, 97, (STEPS * BATCH, 16), generator=torch.Generator().manual_seed(5))


class InOrder(Trainer):
    def _get_train_sampler(self, *args, **kwargs):
        return torch.utils.data.SequentialSampler(self.train_dataset)


def arguments(folder, **changes):
    settings = {
        "output_dir": str(folder), "max_steps": STEPS, "per_device_train_batch_size": BATCH, "learning_rate": 0.02,
        "lr_scheduler_type": "linear", "warmup_steps": 2, "weight_decay": 0.1, "adam_beta1": 0.9, "adam_beta2": 0.95,
        "adam_epsilon": 0.1, "max_grad_norm": 0.0, "save_strategy": "no", "report_to": "none", "use_cpu": True,
        "logging_steps": 1, "disable_tqdm": True, "remove_unused_columns": False, "dataloader_pin_memory": False,
    }  # fmt: skip
    return TrainingArguments(**{**settings, **changes})


def trained(folder, model=None, sparsity=SPARSITY, trainer_class=InOrder, resume=None, callbacks=(), **changes):
    model = model or tiny_model(**FEATURES)
    trainer = trainer_class(
        model=model, args=arguments(folder, **changes), train_dataset=TokenBlocks(BLOCKS), data_collator=default_data_collator,
        callbacks=[WeightSparsityCallback(sparsity), *callbacks],
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=resume)
    return trainer
