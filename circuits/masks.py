"""Learned masks: one number per node, trained so that few nodes stay open and the task is still done (docs/method.md#learned-pruning)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from tqdm import tqdm

from ..configuration_csp import require_positive_int
from ..wiring_csp import located, site
from .ablation import Change, Scales, ablated, gated, holding, recorded_scales, surrogate
from .conditions import ABLATIONS, Conditions
from .hooks import frozen
from .outcome import last_logits, losses, vocabulary_kl
from .sites import require_csp
from .tasks import Pairs, Task

OBJECTIVES = ("task", "distribution")
Nodes = dict[str, torch.Tensor]  # site -> sorted int64 indices of nodes


@dataclass(frozen=True)
class PruneConfig:
    """How a circuit is looked for. Defaults suit models of up to some million nonzeros (LOG.md); the paper's are in brackets.

    Args:
        target_loss: task loss in nats that the circuit must reach (0.15).
        steps: of mask training. pairs: in a batch (64). lr: AdamW's (3e-3), falling linearly to 0 after `warmup` (fraction of steps).
        k_coef: price of an open node (1e-4, which under-prunes small models).
        temperature: of the surrogate gradient (1). init_mean, init_std: of importance (0.1, 0.01).
        weight_decay, beta2, clip: of the optimizer (1e-3, 0.95, 1).
        tie_qk: channel i of q and of k share one mask while masks are trained; afterwards each is kept or dropped by itself.
        freeze_norms: norms use the scales of the unpruned model, so that no node is kept for turning a norm up.
        ablation: what closed nodes are held at (`conditions.py`): "mean"; "zero"; "resample": activations of other tokens of the corpus; "mix":
            mean and resample, and the circuit must do under each; "adversarial": mix, and what was sought to break it. Larger circuits, that
            survive more, in this order.
        draws: of each kind of resampling, under which decisions are taken.
        objective: "task": the loss between the two answers; "distribution": KL(model || circuit) over the whole vocabulary, and a circuit must have at
            most `target_kl` of it, beside `target_loss`.
        eval_pairs: held-out pairs, always the same, on which every decision after training is taken.
        edges: whether edges are pruned after nodes.
        seed: of batches and masks.
    """

    target_loss: float = 0.15
    steps: int = 400
    pairs: int = 16
    lr: float = 0.01
    warmup: float = 0.05
    k_coef: float = 1e-3
    temperature: float = 1.0
    init_mean: float = 0.1
    init_std: float = 0.01
    weight_decay: float = 1e-3
    beta2: float = 0.95
    clip: float = 1.0
    tie_qk: bool = False
    freeze_norms: bool = True
    ablation: str = "mean"
    draws: int = 4
    objective: str = "task"
    target_kl: float = 0.5
    eval_pairs: int = 64
    edges: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        self._require_kinds()
        for name in ("target_loss", "target_kl", "lr", "temperature", "init_std", "clip"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be above 0, and finite.")
        for name in ("steps", "pairs", "eval_pairs", "draws"):
            require_positive_int(name, getattr(self, name))
        for name in ("k_coef", "weight_decay", "warmup"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be at least 0.")
        for name in ("warmup", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be at least 0 and less than 1.")
        if self.eval_pairs < 2:
            raise ValueError("eval_pairs is 1; calibration is fitted on one half and scored on the other: give at least 2.")
        for name, choices in (("ablation", ABLATIONS), ("objective", OBJECTIVES)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(choices)}.")

    def _require_kinds(self) -> None:
        """Circuit files carry settings too, and may say anything."""
        for field in fields(self):
            value, wanted = getattr(self, field.name), type(field.default)
            fits = isinstance(value, (int, float)) if wanted is float else isinstance(value, wanted)
            if not fits or (isinstance(value, bool) and wanted is not bool):
                kind = {float: "a number", int: "a whole number", bool: "true or false", str: "a word"}[wanted]
                raise ValueError(f"{field.name} is {value!r:.80}; it must be {kind}.")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class Masks:
    """importance for every node of a model, and the model as it is under them.

    Args:
        fills: site -> what a closed node is held at, [width].
        barred: nodes that stay closed.
    """

    def __init__(self, model: Any, fills: Mapping[str, torch.Tensor], config: PruneConfig, barred: Nodes | None = None):
        generator = torch.Generator().manual_seed(config.seed)
        self.model, self.config = model, config
        self.fills: dict[str, torch.Tensor] = {}
        self.hold(fills)
        self.importance: dict[str, torch.Tensor] = {}
        for name, fill in self.fills.items():
            importance = config.init_mean + config.init_std * torch.randn(fill.shape[-1], generator=generator)
            self.importance[name] = importance.to(model.device).requires_grad_()
        if config.tie_qk:
            for name in self.importance:
                layer, location = located(name)
                if layer is not None and location == "attn_k":
                    self.importance[name] = self.importance[site(layer, "attn_q")]
        self.barred = barred or {}
        self.clamp()

    @torch.no_grad()
    def clamp(self) -> None:
        """Brings importance back into [-1, 1], that of barred nodes to -1."""
        for importance in self.parameters():
            importance.clamp_(-1, 1)
        for name, indices in self.barred.items():
            self.importance[name][indices] = -1

    def hold(self, fills: Mapping[str, torch.Tensor]) -> None:
        """From now on closed nodes are held at these: [width], or what broadcasts to [prompts, tokens, width]."""
        self.fills = {name: fills[name].to(self.model.device) for name in require_csp(self.model).node_sites()}

    def parameters(self) -> list[torch.Tensor]:
        return list({id(importance): importance for importance in self.importance.values()}.values())

    @contextmanager
    def applied(self, scales: Scales | None = None) -> Iterator[None]:
        """While the block runs, the model is as under the masks. scales: of this input's norms in the unpruned model, if they are known."""

        def change(name: str) -> Change:  # the fills of the moment
            return lambda out: gated(self.importance[name], self.fills[name], self.config.temperature)(out)

        freeze = self.config.freeze_norms and (scales or True)
        with ablated(self.model, {name: change(name) for name in self.importance}, freeze_norms=freeze):
            yield

    def open_count(self) -> torch.Tensor:
        """Number of open nodes; its gradient to each importance is that of the surrogate."""
        return torch.stack([_Open.apply(importance, self.config.temperature) for importance in self.importance.values()]).sum()  # type: ignore[no-untyped-call]

    def ranking(self) -> list[tuple[str, int]]:
        """All nodes, most important first: by importance; equal ones in forward order, so that ties are broken the same way everywhere."""
        scores = {name: importance.detach().float().cpu() for name, importance in self.importance.items()}
        return ranked(scores)


def ranked(scores: Mapping[str, torch.Tensor]) -> list[tuple[str, int]]:
    """(site, node), highest score first; equal scores in the order of the sites and nodes."""
    names = list(scores)
    order = torch.cat([scores[name] for name in names]).argsort(descending=True, stable=True).tolist()
    widths = [len(scores[name]) for name in names]
    places = [(name, i) for name, width in zip(names, widths) for i in range(width)]
    return [places[at] for at in order]


class _Open(torch.autograd.Function):
    """Open gates of one site: the sum of Heaviside(importance), with the gates' surrogate gradient."""

    @staticmethod
    def forward(ctx: Any, importance: torch.Tensor, temperature: float) -> torch.Tensor:
        ctx.save_for_backward(importance)
        ctx.temperature = temperature
        return (importance > 0).sum().to(importance)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        (importance,) = ctx.saved_tensors
        return grads[0] * surrogate(importance, ctx.temperature), None


def train_masks(
    masks: Masks, task: Task, report: Callable[[int, float, int], None] | None = None, conditions: Conditions | None = None
) -> list[tuple[int, float, int]]:  # fmt: skip
    """Trains importance by AdamW on the objective + k_coef * open nodes, the model's weights frozen.

    Ctrl-C ends the training early; the masks stay as they are then.

    Args:
        conditions: what closed nodes are held at in each step; default: always the masks' fills.

    Returns:
        (step, loss, open nodes) of each step.
    """
    config, model = masks.config, masks.model
    optimizer = torch.optim.AdamW(masks.parameters(), lr=config.lr, betas=(0.9, config.beta2), weight_decay=config.weight_decay)
    warmup = int(config.warmup * config.steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda i: (i + 1) / warmup if i < warmup else (config.steps - i) / (config.steps - warmup)
    )
    pool = training_pairs(task, config).to(model.device)
    history = []
    bar = tqdm(range(config.steps), desc=f"pruning {task.name}", unit="step", disable=None, delay=2)
    try:
        with frozen(model):
            batches = _Batches(model, pool, config)
            for step in bar:
                loss = _step(masks, batches, step, conditions)
                count = masks.open_count()
                optimizer.zero_grad()
                (loss + config.k_coef * count).backward()
                if conditions is not None:
                    conditions.ascend()
                torch.nn.utils.clip_grad_norm_(masks.parameters(), config.clip)
                optimizer.step()
                schedule.step()
                masks.clamp()
                history.append((step, loss.item(), int(count.item())))
                bar.set_postfix(loss=f"{history[-1][1]:.3f}", nodes=history[-1][2])
                if report is not None:
                    report(*history[-1])
    except KeyboardInterrupt:
        bar.write(f"Stopped after {len(history)} of {config.steps} steps; going on with the masks as they are.")
    return history


def _step(masks: Masks, batches: _Batches, step: int, conditions: Conditions | None) -> torch.Tensor:
    """The objective on a step's batch."""
    pairs, model_logits, scales = batches.at(step)
    if conditions is not None:
        masks.hold(conditions.for_training(*pairs.input_ids.shape))
    with masks.applied(scales):
        logits = last_logits(masks.model, pairs, len(pairs))
    return objective(logits, pairs.answers, model_logits)


def objective(logits: torch.Tensor, answers: torch.Tensor, model_logits: torch.Tensor | None) -> torch.Tensor:
    """Pairwise loss, or with the whole model's logits KL(model || circuit) over the vocabulary; mean over prompts, nats."""
    if model_logits is None:
        return losses(logits.gather(1, answers)).mean()
    return vocabulary_kl(model_logits, logits).mean()


class _Batches:
    """Batches of training pairs in turn, with what the unpruned model does on them: logits and scales of norms, computed once for each."""

    def __init__(self, model: Any, pool: Pairs, config: PruneConfig):
        self.model, self.pool, self.config = model, pool, config
        self._known: dict[int, tuple[torch.Tensor | None, Scales | None]] = {}

    def at(self, step: int) -> tuple[Pairs, torch.Tensor | None, Scales | None]:
        config = self.config
        start = step % max(1, len(self.pool) // config.pairs) * config.pairs
        pairs = self.pool.part(start, start + config.pairs)
        if start not in self._known:
            self._known[start] = unpruned(self.model, pairs, config)
        return pairs, *self._known[start]


@torch.no_grad()
def unpruned(model: Any, pairs: Pairs, config: PruneConfig) -> tuple[torch.Tensor | None, Scales | None]:
    """What decisions about a circuit need of the whole model on pairs, one batch: logits where the objective is the distribution, scales where norms are frozen."""
    if config.objective == "task" and not config.freeze_norms:
        return None, None
    with recorded_scales(model) as scales:
        logits = last_logits(model, pairs, len(pairs))
    return logits if config.objective == "distribution" else None, scales if config.freeze_norms else None


def pool_size(config: PruneConfig) -> int:
    """Different pairs that masks are trained on, if the task has as many; they come round again after."""
    return min(config.pairs * config.steps, 64 * config.pairs)


def training_pairs(task: Task, config: PruneConfig, least: int = 1) -> Pairs:
    """The pairs that masks are trained on; more of them if `least` is larger."""
    return task.pairs(max(pool_size(config), least), "train", seed=config.seed, fewer=True)


def deciding_pairs(task: Task, config: PruneConfig, count: int | None = None) -> Pairs:
    """The held-out pairs on which decisions after training are taken. Splits of a task of one's own may share prompts: none that any method
    trains on is among them.

    Raises:
        ValueError: if fewer than two are left.
    """
    trained = training_pairs(task, config, config.eval_pairs).prompts()
    pairs = task.pairs(count or config.eval_pairs, "validation", seed=config.seed, fewer=True, without=trained)
    if len(pairs) < 2:
        raise ValueError(f"{task.name} has {len(pairs)} pair for validation; it needs at least 2.")
    return pairs


def opened(nodes: Mapping[str, torch.Tensor], fills: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Changes for `ablated` that hold everything but `nodes` at the fills."""
    changes = {}
    for name, fill in fills.items():
        open_ = torch.zeros(fill.shape[-1], dtype=torch.bool)
        if name in nodes:
            open_[nodes[name]] = True
        changes[name] = holding(open_, fill)
    return changes


def as_nodes(places: list[tuple[str, int]], sites: list[str]) -> Nodes:
    """Nodes by site, sorted, sites in forward order; sites without nodes are left out."""
    by_site: dict[str, list[int]] = {}
    for name, i in places:
        by_site.setdefault(name, []).append(i)
    return {name: torch.tensor(sorted(by_site[name])) for name in sites if name in by_site}
