"""Settings of recipes: numbers as people write them; whatever cannot be is named before any work."""

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_circuits.files import parse_yaml
from sparse_circuits.training.recipes import PRESETS, make_recipe
from sparse_circuits.training.train import train


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1e-3", 0.001),
        ("1E-3", 0.001),
        ("2.5e-4", 0.00025),
        (".5", 0.5),
        ("5.", 5.0),
        ("+1", 1),
        ("010", 10),
        ("1_000", 1000),
        ("3", 3),
    ],
)
def test_numbers_as_people_write_them(written, value):
    assert make_recipe("tiny", None, [f"arguments.learning_rate={written}"]).arguments["learning_rate"] == value
    assert make_recipe("tiny", {"arguments": {"learning_rate": value}}).arguments["learning_rate"] == value


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**12), 10**12))
@settings(deadline=None, max_examples=200)
def test_every_number_is_read_as_it_was_written(value):
    read = parse_yaml(f"x: {value!r}", "x")["x"]
    assert read == value
    assert type(read) is type(value)
    assert parse_yaml(yaml.safe_dump({"x": value}), "x") == {"x": value}


WRONG = [
    ("arguments.learning_rate=abc", "learning_rate is 'abc'; it must be float"),
    ("arguments.learning_rate=true", "learning_rate is True; it must be float"),
    ("arguments.learning_rate=.inf", "learning_rate is inf; it must be a finite number"),
    ("arguments.learning_rate=.nan", "learning_rate is nan"),
    ("arguments.learning_rate=0", "learning_rate is 0, at which nothing is learned"),
    ("arguments.learning_rate=-1", "learning_rate is -1"),
    ("arguments.learning_rate=[1, 2]", "learning_rate is a list"),
    ("arguments.max_steps=abc", "max_steps is 'abc'; it must be int"),
    ("arguments.max_steps=1.5", "max_steps is 1.5; it must be int"),
    ("arguments.max_steps=-3", "need the number of steps"),
    ("arguments.adam_beta1=1.5", "adam_beta1 is 1.5"),
    ("arguments.per_device_train_batch_size=0", "per_device_train_batch_size is 0"),
    ("arguments.seed=-1", "seed is -1"),
    ("arguments.seed=99999999999", "seed is 99999999999"),
    ("arguments.seed=x", "seed is 'x'"),
    ("arguments.optim=nonesuch", "arguments cannot be used"),
    ("arguments.optim=lomo", "arguments cannot be used"),
    ("arguments.optim=schedule_free_adamw", "saves an average of weights"),
    ("arguments.lr_scheduler_type=nonesuch", "arguments cannot be used"),
    ("arguments.eval_strategy=3", "eval_strategy is 3"),
    ("arguments.nonesuch=1", "nonesuch is no setting"),
    ("arguments.learning_rat=1", "did you mean 'learning_rate'"),
    ("sparsity.foo=1", "sparsity.foo is no setting"),
    ("sparsity.density=abc", "density of weights is 'abc'"),
    ("sparsity.density=.nan", "density of weights is nan"),
    ("sparsity.min_alive=2.5", "min_alive is 2.5"),
    ("sparsity.anneal_start=x", "anneal_start"),
    ("sparsity.anneal_exponent=.inf", "anneal_exponent"),
    ("sparsity.anneal=3", "anneal is 3"),
    ("sparsity.normalize_gradients=3", "normalize_gradients is 3"),
    ("sparsity.min_alive=500", "min_alive=500"),
    ("sparsity.density=0.001", "too few for min_alive=4"),
    ("model.foo=1", "model.foo is no setting"),
    ("model.n_layer=2.5", "n_layer is 2.5"),
    ("model.d_model=abc", "d_model is 'abc'"),
    ("model.activation_type=[1]", "activation_type"),
    ("model.afrac=3", "afrac is 3"),
    ("model.dropout=.inf", "dropout is inf"),
    ("tokenizer=3", "tokenizer is 3; it must be a folder"),
    ("tokenizer=/no/such", "does not exist"),
    ("start=3", "start is 3"),
    ("start=no", "start is False"),
    ("block=0", "block is 0"),
    ("block=.inf", "block is inf"),
    ("eval_blocks=x", "eval_blocks is 'x'"),
    ("corpora={}", "There is no corpus"),
    ("corpora={idioms: abc}", "weight of corpus 'idioms' is 'abc'"),
    ("corpora={idioms: .inf}", "weight of corpus 'idioms' is inf"),
    ("corpora={idioms: -1}", "weight of corpus 'idioms' is -1"),
    ("corpora={3: 1}", "needs names and values"),
    ("corpora={'idioms:99999999999': 1}", "idioms:99999999999"),
    ("corpora={'idioms:x': 1}", "idioms:x"),
    ("corpora={'hf:': 1}", "is no corpus"),
    ("corpora={'/no/such/folder': 1}", "is no folder"),
    ("corpora={'/no/*.py': 1}", "matches no"),
    ("model=&x [1]", "model"),
    ("model.afrac=*x", "cannot be read"),
    ("model.afrac={a: 1, a: 2}", "twice"),
    ("model.afrac=" + "[" * 5000, "nested too deep"),
    ("nonesuch=1", "is no section"),
    ("nonesuch.x=1", "is no section"),
]


@pytest.mark.parametrize(("setting", "message"), WRONG)
def test_what_cannot_be_is_named_before_any_work(setting, message, tmp_path):
    with pytest.raises((ValueError, OSError), match=message) as caught:
        train(make_recipe("tiny", None, [setting]), tmp_path / "run", say=lambda text: pytest.fail(text))
    assert len(str(caught.value)) < 700
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_aliases_that_explode_are_refused_in_a_short_sentence(tmp_path):
    file = tmp_path / "bomb.yaml"
    file.write_text(
        "a: &a [x, x]\n" + "".join(f"{c}: &{c} [*{p}, *{p}]\n" for p, c in zip("abcdefgh", "bcdefghi")), encoding="utf-8"
    )
    with pytest.raises(ValueError, match="alias") as caught:
        make_recipe("tiny", file)
    assert len(str(caught.value)) < 500


def test_positions_must_hold_a_sequence(tmp_path):
    given = ["model.position_embedding_type=added", "model.block_size=64", "block=128"]
    with pytest.raises(ValueError, match="longer than the position table"):
        train(make_recipe("tiny", None, given), tmp_path / "run")


def test_a_folder_that_cannot_be_written_is_named_before_any_work(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot be written to"):
        train(make_recipe("tiny"), tmp_path / "file" / "run", say=lambda text: pytest.fail(text))


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_passes(preset):
    assert make_recipe(preset).to_dict()
