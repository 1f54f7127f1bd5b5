# The circuit for while_return_true, simplified: right on 166,464 of 166,464 prompts, where the circuit itself is on 166,4
# mean pairwise loss 0.280, of the circuit itself 0.275. Tokens are ids; comments have their texts.
from math import exp

SET_1 = {485, 761}  # 'def', ' True'
SET_2 = {68, 263, 275, 292, 1151, 1811}  # 'e', 're', 'st', 'it', ' while', 'user'
SET_3 = {267, 275, 309, 761, 905, 915, 1252, 1570}  # 'er', 'st', '):\\n', ' True', 'dent', 'ste', '(c', '(path'
SET_4 = {70, 81, 258, 272, 281, 327, 336, 504, 666, 676, 707, 981, 1151, 1811, 1921}  # 'g', 'r', '   ', 'le', 'me', 'co', 'la', 'art', 'unt', 'ord' and 5 more
SET_5 = {843, 1151}  # 'eld', ' while'
SET_6 = {70, 272, 286, 406, 462, 905, 1172, 1458, 1740}  # 'g', 'le', ' f', 'ter', 'te', 'dent', '(n', ' sp', '_g'
SET_7 = {62, 68, 79, 267, 492, 507, 612, 726, 1027, 1209, 1265, 1431, 1787}  # '_', 'e', 'p', 'er', 'ly', 'ode', '_s', 'mal', 'ity', 'level' and 3 more
SET_8 = {67, 72, 83, 87, 88, 285, 290, 299, 327, 335, 342, 399, 450, 481, 550, 770, 1026, 1280, 1346, 1551, 1581, 1665, 1962, 1996}  # 'd', 'i', 't', 'x', 'y', 'al', ' re', ' s', 'co', ' return' and 14 more
SET_9 = {70, 1002}  # 'g', 'roup'
SET_10 = {484, 505, 1151, 1343, 1797}  # 'ry', 'um', ' while', 'date', ' find'
SET_11 = {220, 394, 543, 635, 1128, 1280}  # ' ', 'ort', 'able', '_f', ' col', 'ask'
SET_12 = {360, 492, 529, 676, 843, 1026, 1581, 1912, 1962}  # 'un', 'ly', ' lo', 'ord', 'eld', 'ine', 'message', 'bel', '_line'
SET_13 = {285, 305, 353, 557, 566, 726, 905}  # 'al', 'ce', 'pe', 'age', 'fi', 'mal', 'dent'
SET_14 = {619, 935, 1151, 1570, 1797, 1996, 2030}  # ' get', ' read', ' while', '(path', ' find', ' parse', ' make'
SET_15 = {67, 78, 79, 81, 267, 281, 317, 346, 450, 462, 504, 761, 838, 1027, 1212, 1280, 1619}  # 'd', 'o', 'p', 'r', 'er', 'me', 'ot', 'ad', 'ent', 'te' and 7 more
SET_16 = {299, 309, 324, 327, 390, 407, 485, 507, 529, 676, 760, 807, 958, 1002, 1128, 1132, 1172, 1206, 1237, 1263, 1265, 1605, 1681, 1848, 1971, 1993}  # ' s', '):\\n', 'ro', 'co', ' co', ' se', 'def', 'ode', ' lo', 'ord' and 16 more
SET_17 = {68, 70, 72, 83, 84, 88, 263, 275, 292, 342, 399, 401, 406, 419, 481, 492, 547, 644, 666, 751, 753, 774, 834, 843, 962, 965, 1102, 1291, 1321, 1387, 1431, 1551, 1571, 1740, 1808, 1962}  # 'e', 'g', 'i', 't', 'u', 'y', 're', 'st', 'it', 'ge' and 26 more


def answer(tokens):
    keys = {2: []}
    for end in range(1, len(tokens) + 1):
        seen, token = tokens[:end], tokens[end - 1]
        stream_85 = 0.42 if token in SET_1 else -0.019
        stream_173 = 0.43 if token in SET_2 else -0.046
        token_35 = -0.25 if token in SET_3 else 0.17 if token in SET_4 else 0.0022
        token_56 = 0.34 if token == 313 else -0.38 if token in SET_5 else 0.14 if token in SET_6 else -0.24 if token in SET_7 else -0.062 if token in SET_8 else 0.0037
        token_136 = -0.39 if token == 336 else 0.24 if token in SET_9 else -0.27 if token in SET_10 else 0.1 if token in SET_11 else -0.14 if token in SET_12 else 2.3e-05
        token_162 = -0.4 if token in SET_13 else -0.77 if token in SET_14 else -0.49 if token in SET_15 else -0.69 if token in SET_16 else -0.59 if token in SET_17 else -0.65
        token_189 = 0.39 if token == 1151 else -0.0012
        keys[2].append([9.8 * token_162 - 0.46 * token_189 - 8.2, -5.0 * token_162 + 4.7, 0.49 * token_35 - 2.7 * token_162 - 0.021, 3.1 * token_162 - 1.2, -1.7 * token_35 + 1.7 * token_56 + token_136 + 3.8 * token_162 - 1.2 * token_189 - 2.6, 1.1 * token_136 - 0.36 * stream_173 + 0.044, -0.42 * token_136 + 2.6 * token_189 + 0.54, -1.6 * token_56 + 1.9 * token_189 + 0.0036, 0.66 * token_35 - 1.4 * 0.026 + token_189 - 0.033, 1.1 * token_56 - 0.6 * stream_173 - token_189 - 0.0038, -0.43 * token_56 - token_136 + 0.3 * stream_173 - 0.24, 0.51 * token_189 + 0.42, -0.72 * stream_173 - 0.84 * token_189 - 0.044, -0.17 * stream_173 - 2.3 * token_189 - 0.018])
        if end < len(tokens):
            continue
        # Layer 2, head 4, beside its sink.
        weights = [exp(0.25 * (-10.0 * past[0] + 4.4)) for past in keys[2]]
        total = sum(weights) + exp(0.5)
        moved_2_69 = sum(w * past[5] for w, past in zip(weights, keys[2])) / total
        moved_2_75 = sum(w * past[6] for w, past in zip(weights, keys[2])) / total
        # Layer 2, head 8, beside its sink.
        weights = [exp(0.25 * (1.8 * past[1] + 5.1 * past[2] + -4.5 * past[3] + -3.1)) for past in keys[2]]
        total = sum(weights) + exp(-3.0)
        moved_2_131 = sum(w * past[7] for w, past in zip(weights, keys[2])) / total
        moved_2_133 = sum(w * past[8] for w, past in zip(weights, keys[2])) / total
        # Layer 2, head 9, beside its sink.
        weights = [exp(0.25 * (-7.2 * past[4] + 9.0)) for past in keys[2]]
        total = sum(weights) + exp(-2.1)
        moved_2_144 = sum(w * past[9] for w, past in zip(weights, keys[2])) / total
        moved_2_149 = sum(w * past[10] for w, past in zip(weights, keys[2])) / total
        moved_2_150 = sum(w * past[11] for w, past in zip(weights, keys[2])) / total
        moved_2_152 = sum(w * past[12] for w, past in zip(weights, keys[2])) / total
        moved_2_154 = sum(w * past[13] for w, past in zip(weights, keys[2])) / total
        stream_1 = -0.059 * moved_2_75 - 0.32 * moved_2_133 + 0.15 * moved_2_154 + 0.13
        stream_10 = -0.3 * moved_2_75 - 0.4
        stream_12 = -0.24 * moved_2_154 + 0.17
        stream_17 = -0.041 * moved_2_75 - 0.26 * moved_2_133 - 0.12 * moved_2_149 + 0.21 * moved_2_152 - 0.26
        stream_28 = -0.37 * moved_2_144 + 0.58
        stream_57 = 0.26 * moved_2_75 - 0.29
        stream_71 = -0.24 * moved_2_69 + 0.19 * moved_2_133 - 0.13 * moved_2_144 - 0.14 * moved_2_152 - 0.29 * moved_2_154 - 0.13
        stream_81 = -0.087 * moved_2_69 - 0.24 * moved_2_154 + 0.14
        stream_82 = -0.18 * moved_2_75 - 0.36 * moved_2_150 + 0.12 * moved_2_154 - 0.15
        stream_126 = -0.27 * moved_2_75 - 0.19 * moved_2_131 + 0.22 * moved_2_154 + 0.17
        stream_165 = -0.17 * moved_2_75 + 0.16 * moved_2_144 + 0.093 * moved_2_152 - 2.3
        stream_173 += 0.26 * moved_2_69 + 0.12 * moved_2_144 - 0.15 * moved_2_149 + 0.25 * moved_2_152 + 0.12
        stream_178 = 0.3 * moved_2_149 + 0.23 * moved_2_150 - 0.22 * moved_2_154 - 0.074
        # Layer 3, neurons.
        neuron_3_114 = max(0.0, 0.65 * stream_12 - 0.39 * stream_17 + 0.23 * stream_28 - 0.21 * stream_82 - 0.68 * stream_173 + 0.51 * stream_178 - 0.62)
        neuron_3_131 = max(0.0, 0.74 * stream_173 + 0.83)
        neuron_3_320 = max(0.0, 0.8 * stream_81 - 0.0084)
        neuron_3_344 = max(0.0, -0.97 * stream_17 + 0.31)
        stream_62 = 0.074 * neuron_3_114 + 0.28 * neuron_3_320 + 0.35
        stream_81 += 0.26 * neuron_3_114 + 0.33 * neuron_3_344 + 0.19
        stream_85 += -0.16 * neuron_3_131 - 0.17
    return {
        198: -0.4 * stream_1 - 0.2 * stream_17 - 1.2 * stream_62 - 0.48 * stream_71 - 0.89 * stream_81 + 0.38 * stream_82 + 0.61 * stream_165 - 0.55 * stream_178 - 4.9,  # \n
        271: -1.1 * stream_1 - 0.71 * stream_10 - 0.6 * stream_17 + 0.21 * stream_57 - 0.47 * stream_62 + 0.47 * stream_71 + 0.67 * stream_85 - 0.93 * stream_126 - 0.46 * stream_173 - 9.2,  # :\n
    }
