"""A second implementation of a model run as a circuit, plain, in float64, written from docs/method.md: no hooks, no modules, one token's row after the other."""

import math

import torch


def plain_logits(model, ids, nodes=None, fills=None, removed=None, scales=None):
    """Logits [batch, tokens, vocabulary].

    Args:
        nodes: site -> open nodes; None: all are open. fills: name -> what closed nodes and removed edges carry, broadcastable to [batch, tokens, width].
        removed: map -> set of (source, target). scales: of `plain_scales`, to freeze norms.
    """
    return _Plain(model, nodes, fills or {}, removed or {}, scales).logits(ids)


def plain_scales(model, ids):
    """The scale that each norm of the residual stream multiplies with in the unpruned model, in order."""
    run = _Plain(model, None, {}, {}, None)
    run.logits(ids)
    return run.seen


class _Plain:
    def __init__(self, model, nodes, fills, removed, scales):
        self.c, self.w = model.config, {name: tensor.double() for name, tensor in model.state_dict().items()}
        self.nodes, self.fills, self.removed, self.scales, self.seen = nodes, fills, removed, scales, []

    def site(self, name, location, x):
        k = int(self.c.afrac.get(location, 1.0) * x.shape[-1])
        if k < x.shape[-1]:
            order = x.abs().argsort(dim=-1, descending=True, stable=True)[..., :k]
            x = torch.zeros_like(x).scatter(-1, order, x.gather(-1, order))
        if self.nodes is None or name is None:
            return x
        closed = torch.ones(x.shape[-1], dtype=torch.bool)
        closed[self.nodes.get(name, torch.tensor([], dtype=torch.long))] = False
        return torch.where(closed, self.fills[name].double(), x)

    def norm(self, name, x, counted=True):
        rms = self.c.norm_type == "rms_norm"
        x = x if rms else x - x.mean(-1, keepdim=True)
        scale = (x.pow(2).mean(-1, keepdim=True) + (1.1920929e-07 if rms else 1e-5)).rsqrt()
        if counted:
            self.seen.append(scale)
            scale = scale if self.scales is None else self.scales[len(self.seen) - 1]
        return x * scale * self.w[f"{name}.weight"] + self.w.get(f"{name}.bias", 0)

    def linear(self, path, x, parts):
        """W x + b; of a removed edge the weight times what its source is held at. parts: (map, name of the fills, first row)."""
        weight = self.w[f"{path}.weight"]
        out = x @ weight.t() + self.w.get(f"{path}.bias", 0)
        for name, held, first in parts:
            for source, target in self.removed.get(name, ()):
                out[..., first + target] += weight[first + target, source] * (
                    self.fills[held].double()[..., source] - x[..., source]
                )
        return out

    def attention(self, q, k, v, sink):
        batch, tokens, _ = q.shape
        q, k, v = (x.view(batch, tokens, self.c.n_head, self.c.d_head) for x in (q, k, v))
        out = torch.zeros_like(v)
        for t in range(tokens):
            score = torch.einsum("bhd,bshd->bhs", q[:, t], k[:, : t + 1]) / math.sqrt(self.c.d_head)
            if sink is not None:
                score = torch.cat([sink.view(1, -1, 1).expand(batch, -1, 1), score], -1)
            share = score.softmax(-1)[..., -(t + 1) :]
            out[:, t] = torch.einsum("bhs,bshd->bhd", share, v[:, : t + 1])
        return out.reshape(batch, tokens, -1)

    def bent(self, kind, x):
        gelu = x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))
        tanh = x * 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
        return {"gelu": gelu, "gelu_tanh": tanh, "relu": x.clamp(min=0)}.get(kind, x)

    def logits(self, ids):
        c, w = self.c, self.w
        x = w["transformer.wte.weight"][ids]
        places = None
        if c.position_embedding_type != "none":
            places = w["transformer.wpe.weight"][: ids.shape[1]]
        if c.position_embedding_type == "added":
            x = x + places
        for i in range(c.n_layer):
            x = self.block(i, f"transformer.h.{i}", x, places if c.position_embedding_type == "concatenated" else None)
        x = self.norm("transformer.final_norm", self.site("final_resid", "", x))
        logits = x @ w["lm_head.weight"].t() + w["final_logits_bias"]
        return logits + w["bigram_table.logit_bias"][ids] if c.enable_bigram_table else logits

    def read(self, norm, where, x, places):
        x = self.norm(f"{where}.{norm}_norm", x)
        if places is None:
            return x
        beside = self.norm(f"{where}.{norm}_pos_norm", places, counted=False)
        return torch.cat([x, beside.expand(*x.shape[:-1], -1)], -1)

    def block(self, i, at, x, places):
        c, width = self.c, self.c.n_head * self.c.d_head
        x = self.site(None, "resid_pre", x)
        read = f"{i}.attn.act_in"
        a = self.site(read, "attn_in", self.read("attn", at, x, places))
        parts = [(f"{read}->{i}.attn.{which}", read, n * width) for n, which in enumerate("qkv")]
        q, k, v = self.linear(f"{at}.attn.c_attn", a, parts).split(width, -1)
        q, k, v = (self.site(f"{i}.attn.{n}", f"attn_{n}", each) for n, each in zip("qkv", (q, k, v)))
        y = self.attention(q, k, v, self.w.get(f"{at}.attn.sink_bias"))
        out = self.linear(f"{at}.attn.c_proj", y, [(f"{i}.attn.v->{i}.attn.resid_delta", f"{i}.attn.y", 0)])
        x = x + self.site(f"{i}.attn.resid_delta", "attn_out", out)
        x = self.site(None, "resid_post_attn", self.bent(c.residual_activation_type, x))
        read, neurons = f"{i}.mlp.act_in", f"{i}.mlp.post_act"
        m = self.site(read, "mlp_in", self.read("mlp", at, x, places))
        h = self.linear(f"{at}.mlp.c_fc", m, [(f"{read}->{neurons}", read, 0)])
        h = self.site(neurons, "mlp_neuron", self.bent(c.activation_type, h))
        out = self.linear(f"{at}.mlp.c_proj", h, [(f"{neurons}->{i}.mlp.resid_delta", neurons, 0)])
        x = x + self.site(f"{i}.mlp.resid_delta", "mlp_out", out)
        return self.site(None, "resid_post_mlp", self.bent(c.residual_activation_type, x))
