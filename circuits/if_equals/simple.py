# The circuit for if_equals, simplified: right on 57,344 of 57,344 prompts, where the circuit itself is on 57,344;
# mean pairwise loss 0.107, of the circuit itself 0.108. Tokens are ids; comments have their texts.
from math import exp

SET_1 = {311, 327, 485, 760, 958, 1172, 1595, 1797, 1848, 1993}  # ' if', 'co', 'def', ' comp', 'join', '(n', ' count', ' find', ' build', 'lean'
SET_2 = {62, 311}  # '_', ' if'
SET_3 = {70, 78, 311, 505, 1209}  # 'g', 'o', ' if', 'um', 'level'
SET_4 = {666, 1595}  # 'unt', ' count'
SET_5 = {15, 16, 62, 87, 311, 843, 1017, 1209, 1581, 1672, 1690, 1787}  # '0', '1', '_', 'x', ' if', 'eld', ' message', 'level', 'message', ' level' and 2 more
SET_6 = {286, 311}  # ' f', ' if'
SET_7 = {7, 70, 311, 1172}  # '(', 'g', ' if', '(n'
SET_8 = {311, 1172, 1740}  # ' if', '(n', '_g'
SET_9 = {566, 666, 1595, 1690, 1704}  # 'fi', 'unt', ' count', ' field', ' handle'


def answer(tokens):
    keys = {1: [], 2: []}
    for end in range(1, len(tokens) + 1):
        token = tokens[end - 1]
        stream_162 = 0.29 if token == 566 else -0.053 if token in SET_1 else 0.0092
        # Layer 0, neurons.
        token_100 = 0.19 if token in SET_2 else -6e-06
        neuron_0_588 = max(0.0, -4.6 * token_100 + 1.2)
        stream_105 = -0.71 * neuron_0_588 - 0.56
        keys[1].append([])
        # Layer 1, head 3, beside its sink.
        weights = [exp(-0.1125)] * len(keys[1])
        total = sum(weights) + exp(2.7)
        attended_1_3 = sum(weights) / total
        # Layer 1, head 4, beside its sink.
        weights = [exp(-0.55)] * len(keys[1])
        total = sum(weights) + exp(7.0)
        attended_1_4 = sum(weights) / total
        stream_162 += -0.31 * attended_1_3 - 22.0 * attended_1_4 + 0.82  # in an indented line (keeps 54%, F1 0.82)
        token_43 = 0.14 if token in SET_3 else -0.026
        token_55 = 0.18 if token == 311 else -0.25 if token in SET_4 else 0.0017
        token_56 = -0.22 if token in SET_5 else 0.032
        token_116 = -0.25 if token == 311 else -0.001
        token_126 = -0.12 if token in SET_6 else 0.011
        token_134 = -0.22 if token in SET_7 else -0.006
        token_163 = -0.19 if token in SET_8 else 0.36 if token in SET_9 else 0.018
        token_189 = 0.22 if token == 311 else -0.22 if token == 505 else -0.0087
        keys[2].append([3.9 * stream_162 - 1.7 * token_189 + 3.2, -6.9 * stream_162 + 7.4, -1.4 * stream_105 + 1.4, 10.0 * stream_162 - 8.2, 1.5 * token_43 + 1.3 * -0.0097 - 2.8 * stream_162 + 0.0046, -1.6 * token_43 - 0.86 * stream_105 + 2.8 * token_126 - 1.1 * -0.0097 + 3.2 * stream_162 - 2.5, -1.7 * token_43 + 1.7 * token_56 - stream_105 + 0.5 * token_116 + 2.5 * token_126 + 3.9 * stream_162 + 1.2 * token_163 - 1.3 * token_189 - 4.0, 6.4 * stream_162 - 0.69, -6.0 * stream_162 + 0.55, 1.1 * token_43 + 0.82 * stream_105 - 6.9 * stream_162 + 5.5, 1.8 * -0.0012 - 0.95 * token_116 + 1.9 * token_189 - 0.0081, 4.1 * token_189 + 0.078, -1.7 * token_56 - 2.1 * token_116 + 2.0 * token_189 + 0.0036, 1.9 * token_55 - 1.7 * token_116 - 0.0067, 1.1 * token_56 + 1.4 * token_116 + 1.7 * token_134 - 1.3 * -0.0097 - 0.62 * 0.0 - token_189 + 0.028, 0.83 * token_134 + token_163 - 0.74 * 0.0 - 0.87 * token_189 + 0.017, -1.9 * token_43 - 1.4 * -0.0012 + 0.8 * token_134 + 0.55 * token_163 - 0.17 * 0.0 - 2.4 * token_189 - 0.0093, 1.9 * token_55 + 2.1 * token_189 + 0.11, -1.8 * token_55 + 0.98 * token_134 - 2.0 * -0.0097 - 0.074])
        if end < len(tokens):
            continue
        # Layer 2, head 1, beside its sink.
        weights = [exp(0.25 * (-3.1 * past[0] + 1.8 * past[1] + -3.0 * past[2] + 26.0)) for past in keys[2]]
        total = sum(weights) + exp(-3.1)
        moved_2_31 = sum(w * past[10] for w, past in zip(weights, keys[2])) / total
        # Layer 2, head 4, beside its sink.
        weights = [exp(0.25 * (-10.0 * past[3] + 4.4)) for past in keys[2]]
        total = sum(weights) + exp(0.5)
        moved_2_67 = sum(w * past[11] for w, past in zip(weights, keys[2])) / total
        # Layer 2, head 8, beside its sink.
        weights = [exp(0.25 * (5.1 * past[4] + -4.5 * past[5] + 11.0)) for past in keys[2]]
        total = sum(weights) + exp(-3.0)
        moved_2_131 = sum(w * past[12] for w, past in zip(weights, keys[2])) / total
        moved_2_138 = sum(w * past[13] for w, past in zip(weights, keys[2])) / total
        # Layer 2, head 9, beside its sink.
        weights = [exp(0.25 * (-6.4 * past[6] + -1.9 * past[7])) for past in keys[2]]
        total = sum(weights) + exp(-2.1)
        moved_2_144 = sum(w * past[14] for w, past in zip(weights, keys[2])) / total
        moved_2_152 = sum(w * past[15] for w, past in zip(weights, keys[2])) / total
        moved_2_154 = sum(w * past[16] for w, past in zip(weights, keys[2])) / total
        # Layer 2, head 11, beside its sink.
        weights = [exp(0.25 * (3.2 * past[8] + 6.1 * past[9] + 40.0)) for past in keys[2]]
        total = sum(weights) + exp(-2.9)
        moved_2_179 = sum(w * past[17] for w, past in zip(weights, keys[2])) / total
        moved_2_182 = sum(w * past[18] for w, past in zip(weights, keys[2])) / total  # the token is " \'" (F1 0.61)
        stream_12 = -0.24 * moved_2_154 + 0.24
        stream_22 = -0.26 * moved_2_152 - 0.37 * moved_2_154 + 0.08
        stream_26 = -0.33 * moved_2_67 + 0.92
        stream_28 = 0.1 * moved_2_67 + 0.17 * moved_2_138 - 0.37 * moved_2_144 - 0.13 * moved_2_154 + 0.43 * moved_2_179 - 0.33 * moved_2_182 + 0.55
        stream_67 = 0.16 * moved_2_131 - 0.21 * moved_2_144 - 0.19 * moved_2_152 - 0.21 * moved_2_154 + 0.98
        stream_81 = 0.15 * moved_2_67 - 0.24 * moved_2_154 + 0.096
        stream_160 = 0.39 * moved_2_31 + 0.41 * moved_2_131 - 0.25
        stream_173 = -0.21 * moved_2_31 - 0.2 * moved_2_138 + 0.12 * moved_2_144 + 0.25 * moved_2_152 - 0.17 * moved_2_179 + 0.21
        stream_178 = 0.16 * moved_2_138 - 0.22 * moved_2_154 + 0.021
        # Layer 3, neurons.
        neuron_3_114 = max(0.0, 0.71 * stream_12 + 0.24 * stream_28 - 0.74 * stream_173 + 0.55 * stream_178 - 0.53)
        stream_49 = -0.43 * neuron_3_114 - 0.093
        stream_81 += 0.26 * neuron_3_114 + 0.4
    return {
        280: -0.87 * stream_22 + 0.83 * stream_26 - 0.99 * stream_28 + 1.2 * stream_49 - 1.4 * stream_81 - 0.9 * stream_160 - 0.34 * stream_178 - 8.6,  #  =
        520: 0.31 * stream_22 + 0.73 * stream_28 + 0.56 * stream_67 - 0.9 * stream_173 - 12.0,  #  ==
    }
