"""One rank of a run for test_distributed.py, by the variables that torchrun sets, or a run of one process: _distributed.py MODE MODEL OUT DTYPE."""

import os
import sys

import torch
import torch.distributed as dist
from transformers import Trainer, TrainingArguments, default_data_collator

from sparse_circuits import CSPForCausalLM, SparsityConfig, WeightSparsityCallback
from sparse_circuits.corpora.blocks import TokenBlocks
from sparse_circuits.training.train import gathered

mode, source, out, dtype = sys.argv[1:5]
mode, _, parts = mode.partition("-")  # "-parts": gradients of supersets
torch.set_num_threads(1)
blocks = torch.randint(0, 97, (160, 16), generator=torch.Generator().manual_seed(5))
options = {}
if mode == "fsdp":
    from transformers.distributed import DistributedConfig

    options["distributed_config"] = DistributedConfig(fsdp_size=2)
model = CSPForCausalLM.from_pretrained(source, dtype=getattr(torch, dtype), **options)
per_rank = {"one": 8, "accumulated": 1}.get(mode, 4)
arguments = TrainingArguments(
    out, max_steps=20, learning_rate=0.02, adam_epsilon=0.1, per_device_train_batch_size=per_rank, lr_scheduler_type="linear",
    gradient_accumulation_steps=8 if mode == "accumulated" else 1, weight_decay=0.1, max_grad_norm=0.0, save_strategy="no", seed=3,
    report_to="none", use_cpu=True, disable_tqdm=True, logging_strategy="no", ddp_backend="gloo" if mode in ("ddp", "fsdp") else None, save_only_model=True,
)  # fmt: skip
sparsity = SparsityConfig(
    density=0.3, min_alive=4, anneal_start=0.1, anneal_stop=0.6, backward_density=0.6 if parts else None, backward_refresh=4
)
trainer = Trainer(
    model, arguments, train_dataset=TokenBlocks(blocks), data_collator=default_data_collator, callbacks=[WeightSparsityCallback(sparsity)]
)  # fmt: skip
trainer.train()
rank = dist.get_rank() if dist.is_initialized() else 0
torch.save({name: tensor.clone() for name, tensor in gathered(trainer.model).items()}, f"{out}-{rank}.pt")
if dist.is_initialized():
    dist.barrier()
    os._exit(0)  # gloo's threads may abort a process that ends in the ordinary way
