"""The table of weights against removing them one by one."""

import csv
import io

import pytest
import torch

from sparse_circuits.circuits.weights import COLUMNS, as_csv, weight_table
from tiny import sparse_pair, thinned, tiny_ids


def loss_of(model, ids):
    with torch.no_grad():
        return float(model(ids, labels=ids, use_cache=False).loss)


@pytest.fixture(scope="module")
def case():
    return thinned(0.1, enable_bigram_table=True).double(), tiny_ids(10, 12)


def test_every_nonzero_is_there_once_and_nothing_is_changed(case):
    model, ids = case
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    rows = weight_table(model, ids)
    wanted = {
        (name.removesuffix(".weight"), *place)
        for name, p in model.named_parameters() if p.dim() == 2 and "bigram" not in name for place in p.detach().nonzero().tolist()
    }  # fmt: skip
    assert {(row.module, row.output, row.input) for row in rows} == wanted
    assert len(rows) == len(wanted)
    assert all(torch.equal(p, before[name]) and p.grad is None for name, p in model.named_parameters())
    assert [abs(row.first_order) for row in rows] == sorted((abs(row.first_order) for row in rows), reverse=True)


def test_effects_are_those_of_removal(case):
    model, ids = case
    rows = weight_table(model, ids, exact=12, batch=4)
    whole = loss_of(model, ids)
    for row in rows[:12]:
        matrix = dict(model.named_parameters())[f"{row.module}.weight"]
        with torch.no_grad():
            matrix[row.output, row.input] = 0.0
            assert loss_of(model, ids) - whole == pytest.approx(row.exact, abs=1e-7)
            matrix[row.output, row.input] = row.value
    assert all(row.exact is None for row in rows[12:])
    measured = weight_table(model, ids, exact=300)[:300]
    errors = torch.tensor([abs(row.exact - row.first_order) for row in measured])
    effects = torch.tensor([abs(row.exact) for row in measured])
    assert errors[150:].median() < 0.2 * effects[150:].median()  # small effects are nearly linear


def test_it_is_written_as_csv(case):
    model, ids = case
    rows = weight_table(model, ids, exact=1)
    head, first, second = list(csv.reader(io.StringIO(as_csv(rows[:2]))))
    assert tuple(head) == COLUMNS
    assert (first[0], int(first[1]), int(first[2])) == (rows[0].module, rows[0].output, rows[0].input)
    assert float(first[3]) == pytest.approx(rows[0].value)
    assert second[5] == ""


def test_the_sparse_form_is_refused():
    _, sparse = sparse_pair()
    with pytest.raises(ValueError, match="sparse form"):
        weight_table(sparse, tiny_ids(2, 5))
