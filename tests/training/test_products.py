"""Training over nonzeros gives the gradients of dense products, and leaves nothing behind."""

import contextlib
import copy

import pytest
import torch
from torch import nn

import sparse_circuits.kernels.dispatch as dispatch
import sparse_circuits.training.products as products
from sparse_circuits import SparsityConfig, WeightSparsityCallback
from sparse_circuits.nonzeros_csp import nonzeros
from sparse_circuits.training import project_, sparse_products
from sparse_circuits.training.products import attach, detach
from sparse_circuits.training.supersets import Held
from tiny import FEATURES, tiny_ids, tiny_model

WIDE = {"d_model": 32, "d_mlp": 64, "n_head": 2, "d_head": 16}


@pytest.fixture(autouse=True)
def everywhere(monkeypatch):
    """However few tokens there are; dense products by PyTorch."""
    monkeypatch.setattr(dispatch, "TRAINING_TOKENS", 1)
    monkeypatch.setattr(products, "onednn_pays", lambda: False)


def gradients(model, ids):
    model.zero_grad()
    loss = model(ids, labels=ids).loss
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("by_onednn", [False, True])
@pytest.mark.parametrize("density", [1.0, 0.25, 1 / 16])
@pytest.mark.parametrize("name", ["abs_topk", "everything", "plain"])
def test_gradients_are_those_of_dense_products(name, density, by_onednn, monkeypatch):
    used, dense, real, real_dense = [], [], products.sparse_product, products.dense_product
    monkeypatch.setattr(products, "sparse_product", lambda *a: (used.append(1), real(*a))[1])
    monkeypatch.setattr(products, "dense_product", lambda *a: (dense.append(1), real_dense(*a))[1])
    monkeypatch.setattr(products, "onednn_pays", lambda: by_onednn)
    model = tiny_model(**{**FEATURES[name], **WIDE, "d_pos_emb": 16 if "d_pos_emb" in FEATURES[name] else None}).train()
    project_(model, density, min_alive=1)
    ids = tiny_ids(3, 40)
    loss, wanted = gradients(model, ids)
    assert not used
    with sparse_products(model):
        found_loss, found = gradients(model, ids)
    assert found_loss == pytest.approx(loss, rel=1e-6)
    assert found.keys() == wanted.keys()
    for key, grad in wanted.items():
        assert (found[key] - grad).abs().max() <= 1e-5 * grad.abs().max(), key
        assert found[key].is_contiguous() == grad.is_contiguous(), key
    assert bool(used) == (density <= dispatch.TRAINING_DENSITY)
    assert bool(dense) == (by_onednn and density > dispatch.TRAINING_DENSITY)


@pytest.mark.parametrize("density", [0.25, 1 / 16])
def test_under_autocast_gradients_are_as_near_as_those_of_dense_products(density, monkeypatch):
    """Without AbsTopK, in which what rounding makes of ties hides all else."""
    used, real = [], products.sparse_product
    monkeypatch.setattr(products, "sparse_product", lambda *a: (used.append(a[0].dtype), real(*a))[1])
    monkeypatch.setattr(dispatch, "_has_amx", lambda: False)
    model, ids = tiny_model(**FEATURES["plain"], **WIDE).train(), tiny_ids(3, 40)
    project_(model, density, min_alive=1)
    _, exact = gradients(copy.deepcopy(model).double(), ids)
    with torch.autocast("cpu", torch.bfloat16):
        _, dense = gradients(model, ids)
        assert not used
        with sparse_products(model):
            _, found = gradients(model, ids)
    assert set(used) == ({torch.bfloat16} if density <= dispatch.NARROW_DENSITY else set())
    for key, grad in exact.items():
        assert found[key].dtype == torch.float32
        off, of_dense = ((each[key].double() - grad).norm() / grad.norm() for each in (found, dense))
        assert off <= 1.5 * of_dense + 1e-3, key
        assert off < 0.03, key


def test_float64_float16_and_no_gradients_go_the_dense_way():
    model, ids = tiny_model(**WIDE), tiny_ids(2, 30)
    project_(model, 1 / 16, min_alive=1)
    double = copy.deepcopy(model).double()
    wanted = gradients(double, ids)
    with torch.autocast("cpu", torch.float16):
        half = gradients(model, ids)
    with torch.no_grad():
        logits = model(ids).logits
    for each in (model, double):
        attach(each)
    found = gradients(double, ids)
    assert found[0] == wanted[0]
    assert all(torch.equal(found[1][name], grad) for name, grad in wanted[1].items())
    with torch.autocast("cpu", torch.float16):
        again = gradients(model, ids)
    assert again[0] == half[0]
    with torch.no_grad():
        assert torch.equal(model(ids).logits, logits)


@pytest.mark.parametrize("part", [False, True])
def test_second_derivatives(part):
    weight = torch.randn(48, 32, dtype=torch.float64) * (torch.rand(48, 32) < 1 / 16)
    x = torch.randn(20, 32, dtype=torch.float64, requires_grad=True)
    held = Held(*nonzeros(weight, torch.rand(48, 32) < 1 / 4)[1:], 32) if part else None
    power = 1 if part else 2  # the gradient of a part is not that of an output which all entries change

    def product(x, w):
        return products._Product.apply(x, w, None, nonzeros(w.detach(), w != 0), held, False) ** power

    assert torch.autograd.gradgradcheck(product, (x, weight.requires_grad_()))


def test_nothing_stays_and_a_copy_is_its_own():
    model, ids = tiny_model(**WIDE), tiny_ids(2, 30)
    attach(model)
    attach(model)  # twice is once
    other = copy.deepcopy(model)
    with torch.no_grad():
        for p in other.parameters():
            p.zero_()
    assert float(other(ids).logits.detach().abs().max()) == 0
    assert float(model(ids).logits.detach().abs().max()) > 0
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    assert all("forward" in vars(module) for module in linear)
    detach(model)
    assert not any("forward" in vars(module) for module in linear)
    assert not [name for name in model.state_dict() if "forward" in name]


def test_the_callback_trains_so(tmp_path, monkeypatch):
    from transformers import Trainer, TrainingArguments

    seen, real = [], products.sparse_product
    monkeypatch.setattr(products, "sparse_product", lambda *a: (seen.append(1), real(*a))[1])
    model = tiny_model(**WIDE)
    rows = [{"input_ids": ids, "labels": ids} for ids in tiny_ids(8, 24)]
    args = TrainingArguments(
        str(tmp_path), max_steps=3, per_device_train_batch_size=4, report_to=[], save_strategy="no", disable_tqdm=True
    )
    callback = WeightSparsityCallback(SparsityConfig(density=1 / 16, anneal_stop=0.3, min_alive=1))
    Trainer(model=model, args=args, train_dataset=rows, callbacks=[callback]).train()
    assert seen
    assert not any("forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize("density", [1.0, 1 / 16])
def test_checkpoints_run_again_as_they_ran(density, monkeypatch):
    monkeypatch.setattr(products, "onednn_pays", lambda: torch.backends.mkldnn.is_available())
    model, ids = tiny_model(**WIDE).train(), tiny_ids(3, 40)
    project_(model, density, min_alive=1)
    with sparse_products(model):
        wanted = gradients(model, ids)
        for reentrant in (False, True):
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
            model.enable_input_require_grads()
            found = gradients(model, ids)
            assert found[0] == wanted[0]
            assert all(torch.equal(found[1][name], grad) for name, grad in wanted[1].items())


def sparse_linear(rows=64, width=48, density=0.05, **options):
    module = nn.Linear(width, rows, **options)
    with torch.no_grad():
        module.weight.mul_(torch.rand(rows, width) < density)
    return module


def test_many_gradients_at_once_and_changes_in_place():
    module, x = sparse_linear(), torch.randn(40, 48, requires_grad=True)
    wanted = torch.autograd.grad(module(x), x, torch.eye(64)[:5, None].expand(5, 40, 64), is_grads_batched=True)[0]
    attach(module)
    found = torch.autograd.grad(module(x), x, torch.eye(64)[:5, None].expand(5, 40, 64), is_grads_batched=True)[0]
    assert (found - wanted).abs().max() < 1e-5
    for shape in ((40, 48), (4, 10, 48)):
        out = nn.functional.relu(module(torch.randn(shape)), inplace=True)
        out.sum().backward()


def test_what_does_not_fit_ends_as_in_pytorch():
    module = sparse_linear(density=1.0)
    attach(module)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        module(torch.randn(40, 47))
    module.bias = nn.Parameter(module.bias.detach().bfloat16())
    with pytest.raises(RuntimeError, match="dtype"):
        module(torch.randn(40, 48))


def test_a_default_device_is_no_matter():
    module, x = sparse_linear(), torch.randn(40, 48)
    wanted = module(x)
    attach(module)
    with torch.device("meta"):
        found = module(x)
        found.sum().backward()
    assert found.device.type == "cpu"
    assert (found - wanted).abs().max() < 1e-5


def test_norms_go_by_the_kernel_while_they_train(monkeypatch):
    """Where there are tokens enough, gains of one dimension, and float32; elsewhere PyTorch's."""
    used, real = [], products.rms_norm
    monkeypatch.setattr(products, "rms_norm", lambda *a: (used.append(real(*a) is not None), real(*a))[1])
    norm = nn.RMSNorm(24, eps=1e-5)
    attach(norm)
    for x in (torch.randn(30, 24), torch.randn(30, 24).double(), torch.randn(30, 24).bfloat16()):
        found = norm(x)
        assert torch.allclose(found, nn.functional.rms_norm(x, (24,), norm.weight, 1e-5), atol=1e-6)
    assert used == [True, False, False]
    for other in (nn.RMSNorm((3, 8), eps=1e-5), nn.RMSNorm(8, elementwise_affine=False), nn.RMSNorm(8)):
        attach(other)
        x = torch.randn(5, 3, 8)
        assert torch.equal(other(x), nn.functional.rms_norm(x, other.normalized_shape, other.weight, other.eps))
    assert len(used) == 3
    with pytest.raises(RuntimeError, match="normalized_shape"):
        norm(torch.randn(30, 12))
    detach(norm)
    assert "forward" not in vars(norm)


def kept_bytes(loss):
    """Of all tensors that a graph keeps for gradients, less parameters; each storage once."""
    seen, waiting, sizes = set(), [loss.grad_fn], {}
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        waiting += [each for each, _ in node.next_functions]
        found = list(getattr(node, "saved_tensors", ()))
        found += [getattr(node, name) for name in dir(node) if name.startswith("_saved_")]
        site = getattr(node, "site", None)
        found += [site.kept.bits] if site is not None else []
        for x in found:
            if isinstance(x, torch.Tensor) and not isinstance(x, nn.Parameter):
                sizes[x.untyped_storage()._cdata] = x.untyped_storage().nbytes()
    return sum(sizes.values())


@pytest.mark.parametrize("narrow", [False, True])
def test_less_is_kept_for_gradients(narrow):
    """AbsTopK's outputs as the quarter that it kept; norms and GELU no copies of their own."""
    sites = dict.fromkeys(FEATURES["abs_topk"]["afrac"], 0.25)
    model, ids = tiny_model(**{**WIDE, "d_model": 64, "d_mlp": 256, "n_head": 4}, afrac=sites).train(), tiny_ids(4, 60)
    sizes = []
    for way in (contextlib.nullcontext(), sparse_products(model)):
        with way, torch.autocast("cpu", torch.bfloat16, enabled=narrow):
            loss = model(ids, labels=ids).loss
        sizes.append(kept_bytes(loss))
        loss.backward()
    assert sizes[1] < (0.65 if narrow else 0.5) * sizes[0]


def test_checkpointed_blocks_are_as_they_were():
    """They save tensors in a way of their own, which is left to them."""
    sites = dict.fromkeys(FEATURES["abs_topk"]["afrac"], 0.25)
    model, ids = tiny_model(**WIDE, afrac=sites).train(), tiny_ids(3, 40)
    with sparse_products(model):
        _, wanted = gradients(model, ids)
        for reentrant in (False, True):
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
            _, found = gradients(model, ids)
            for name, grad in wanted.items():
                assert (found[name] - grad).abs().max() <= 1e-6 * grad.abs().max() + 1e-9, name


def test_second_derivatives_are_right_or_refused():
    """Of norms they are right, of whatever layout; of linear maps under autocast, whose input is rounded on the way, they are refused."""
    norm, base, c = nn.RMSNorm(16, eps=1e-5), torch.randn(16, 600, requires_grad=True), torch.randn(600, 16)

    def of_norm():
        (g,) = torch.autograd.grad((norm(base.t()) ** 3 * c).sum(), base, create_graph=True)
        return torch.autograd.grad(g.square().sum(), base)[0]

    wanted = of_norm()
    attach(norm)
    assert (of_norm() - wanted).abs().max() <= 1e-4 * wanted.abs().max()
    linear, x = nn.Linear(32, 48), torch.randn(600, 32, requires_grad=True)
    attach(linear)
    with torch.autocast("cpu", torch.bfloat16):
        out = linear(x)
    with pytest.raises(RuntimeError, match="one derivative at a time"):
        torch.autograd.grad(out.float().square().sum(), linear.weight, create_graph=True)


@pytest.mark.parametrize("hooked", [False, True])
def test_who_looks_at_what_gelu_gave_is_told(hooked):
    """A hook of the site sees it, and may ask for its gradient, or change it, whenever it likes; else nobody has it."""
    sites = dict.fromkeys(FEATURES["abs_topk"]["afrac"], 0.25)
    model, ids, seen = tiny_model(**WIDE, afrac=sites).train(), tiny_ids(3, 40), []
    if hooked:
        model.transformer.h[0].mlp.post_act.register_forward_hook(lambda module, given, out: seen.append(given[0]))
    _, wanted = gradients(model, ids)
    seen.clear()
    model.zero_grad()
    with sparse_products(model):
        out = model(ids, labels=ids)
        for each in seen:
            each.register_hook(lambda gradient: gradient * 0)
        out.loss.backward()
    found, expected = model.transformer.h[0].mlp.c_fc.weight.grad, wanted["transformer.h.0.mlp.c_fc.weight"]
    assert len(seen) == hooked
    assert (found - expected * (not hooked)).abs().max() <= 1e-5 * expected.abs().max()
