"""Plain second implementations, to compare with."""

import torch


def brute_force(weight, k, min_alive=0, neuron_dim=None):
    """The same selection, entry by entry: forced ones first, then by magnitude, ties to the lower index."""
    rows, columns = weight.shape
    order = sorted(range(weight.numel()), key=lambda i: (-abs(weight.flatten()[i].item()), i))
    kept = []
    if neuron_dim is not None:
        taken = dict.fromkeys(range(weight.shape[neuron_dim]), 0)
        for i in order:
            neuron = i // columns if neuron_dim == 0 else i % columns
            if taken[neuron] < min_alive:
                taken[neuron] += 1
                kept.append(i)
    kept += [i for i in order if i not in set(kept)][: k - len(kept)]
    mask = torch.zeros(weight.numel(), dtype=torch.bool)
    mask[kept] = True
    return torch.where(mask.view(rows, columns), weight, 0)
