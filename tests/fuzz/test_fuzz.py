"""A sample of the fuzz harness (`python tests/fuzz/run.py --tries 10000` is the whole): no damage is believed, none ends in a traceback or a hang."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import mutations
import pytest
from run import faults as faults_of
from run import fuzz, table
from worker import _is_clean

TRIES = 320  # of all doors together; some make their good files first


def test_nothing_damaged_is_believed_and_everything_is_refused_in_one_sentence():
    found = fuzz(TRIES, seed=1)
    assert not faults_of(found), "\n".join([*faults_of(found), table(found)])
    every = [each for part in found.values() for each in part]
    assert sum(each["outcome"] == "refused" for each in every) > len(every) / 2, table(found)


@pytest.mark.parametrize(
    ("error", "clean"),
    [
        (ValueError("x.json is damaged; get it again."), True), (OSError("x could not be read; look."), True), (ValueError(""), False),
        (ValueError("two\nlines here"), False), (KeyError("edges"), False), (OSError("[Errno 21] Is a directory: 'x'"), False),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), False), (ValueError("x"), False),
    ],
)  # fmt: skip
def test_what_counts_as_one_sentence(error, clean):
    assert _is_clean(error) == clean


def test_every_mutation_is_used():
    used = {mutate for every in mutations.BY_FORMAT.values() for mutate in every}
    named = {value for name, value in vars(mutations).items() if callable(value) and name.endswith(("_edit", "_raw"))}
    assert named <= used
