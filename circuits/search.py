"""Search over the settings of pruning, with Optuna: the paper re-tunes them for each model and task."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

from ..hub import require
from .circuit import Circuit
from .identity import weights_sha256
from .masks import PruneConfig
from .means import Means
from .prune import prune
from .python_tasks import LINE_END
from .tasks import Task

STUDY = "study.sqlite3"
# Names and ranges, log-uniform; the middle suits small models, the paper's values (its table 2) are inside of each.
RANGES = {
    "lr": (1e-3, 1e-1),
    "k_coef": (1e-5, 1e-2),
    "weight_decay": (1e-5, 1e-1),
    "temperature": (0.3, 3.0),
    "init_mean": (0.03, 0.5),
}


def search(
    model: Any,
    tokenizer: Any,
    task: Task,
    means: Means,
    config: PruneConfig | None = None,
    *,
    trials: int,
    out: str | Path,
    force: bool = False,
) -> Circuit:
    """Prunes `trials` times with settings that Optuna chooses, and keeps the circuit with the fewest edges that meets the target.

    The study lies in `out` and is taken up where it was left; several processes may work on one at a time. The first trial is
    `config` itself. `out` always has the best circuit so far.

    Raises:
        MissingExtra: without Optuna (the extra `search`).
        ValueError: for less than one trial, or a folder whose study is of another task, model, corpus or setting that is not searched.
    """
    require("optuna", "searches over settings")
    if trials < 1:
        raise ValueError(f"{trials} trials were asked for; ask for at least 1.")
    config, out = config or PruneConfig(), Path(out)
    out.mkdir(parents=True, exist_ok=True)
    study = _open_study(out, config.seed)
    fixed = {name: value for name, value in config.to_dict().items() if name not in RANGES}
    form = f" ({task.form})" if task.form not in ("", LINE_END) else ""  # older studies have no other
    identity = {"task": task.name + task.twin + form, "model": weights_sha256(model), "corpus": means.corpus, **fixed}
    _refuse_other_study(study, identity, out)
    if not study.trials:
        study.enqueue_trial({name: getattr(config, name) for name in RANGES})

    def objective(trial: Any) -> float:
        chosen = {name: trial.suggest_float(name, low, high, log=True) for name, (low, high) in RANGES.items()}
        circuit = prune(model, tokenizer, task, means, dataclasses.replace(config, **chosen), force=force)
        value = cost(circuit)
        # Written before the trial counts as done: a kill in between costs a trial, never the best circuit.
        if value < min((t.value for t in study.trials if t.value is not None), default=math.inf):
            circuit.metrics["trial"] = trial.number
            circuit.save_pretrained(out)
        return value

    study.optimize(objective, n_trials=trials, show_progress_bar=False)
    return Circuit.from_pretrained(out)


def _open_study(out: Path, seed: int) -> Any:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(
            storage=f"sqlite:///{out / STUDY}",
            study_name="prune",
            load_if_exists=True,
            sampler=optuna.samplers.TPESampler(seed=seed),
        )
    except Exception as error:  # those of the database
        raise ValueError(
            f"{out / STUDY} cannot be read ({str(error).splitlines()[0][:120]}); remove it, or choose another folder."
        ) from None
    return study


def cost(circuit: Circuit) -> float:
    """Edges; a circuit that misses the target costs more than any that meets it, by how much it misses."""
    if circuit.metrics["reached"]:
        return float(circuit.metrics["edges"])
    return 1e9 * (1 + circuit.metrics["circuit"]["loss"])


def _refuse_other_study(study: Any, identity: dict[str, Any], out: Path) -> None:
    for name, value in identity.items():
        if study.user_attrs.setdefault(name, value) != value:
            raise ValueError(
                f"{out / STUDY} is a search with another {name} ({study.user_attrs[name]!r}, not {value!r}); choose another folder."
            )
        study.set_user_attr(name, value)
