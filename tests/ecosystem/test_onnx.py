"""ONNX: exported with lengths left open, run by onnxruntime, equal to the model; ties in AbsTopK included."""

import onnxruntime
import pytest
import torch

from sparse_circuits.topk_csp import abs_topk
from tiny import FEATURES, tiny_ids, tiny_model


class Logits(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, ids):
        return self.model(ids, use_cache=False).logits


def session(module, example, shapes):
    program = torch.onnx.export(module, (example,), dynamic_shapes=shapes, verbose=False)
    # Not program.save: where nnsight has been imported, it gives every object a save of its own.
    return onnxruntime.InferenceSession(program.model_proto.SerializeToString())


@pytest.mark.parametrize(
    "name", ["plain", "layer_norm_relu", "gpt2", "everything"]
)  # an export takes ten seconds; the last has the rest
def test_a_model_of_every_feature(name):
    model = tiny_model(**FEATURES[name])
    runs = session(Logits(model), tiny_ids(2, 12), {"ids": {0: "batch", 1: "tokens"}})
    for batch, tokens in ((2, 12), (1, 5), (3, 30), (1, 1)):
        ids = tiny_ids(batch, tokens, seed=tokens)
        (out,) = runs.run(None, {runs.get_inputs()[0].name: ids.numpy()})
        torch.testing.assert_close(torch.from_numpy(out), model(ids).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("k", [1, 3, 7])
def test_ties_go_to_the_lower_index(k):
    class Keep(torch.nn.Module):
        def forward(self, x):
            return abs_topk(x, k)

    x = torch.randint(-2, 3, (50, 8), generator=torch.Generator().manual_seed(0)).float()
    runs = session(Keep(), x[:3], {"x": {0: "rows"}})
    (out,) = runs.run(None, {runs.get_inputs()[0].name: x.numpy()})
    assert torch.equal(torch.from_numpy(out), abs_topk(x, k))
