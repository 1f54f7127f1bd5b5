# The circuit for for_while, simplified: right on 14,943,744 of 15,261,696 prompts, where the circuit itself is on 15,261,
# mean pairwise loss 0.155, of the circuit itself 0.136. Tokens are ids; comments have their texts.
from math import exp

SET_1 = {220, 258}  # ' ', '   '
SET_2 = {309, 374}  # '):\\n', ' for'
SET_3 = {485, 522}  # 'def', ' g'
SET_4 = {62, 1002, 1848}  # '_', 'roup', ' build'
SET_5 = {1125, 1212, 1263, 1818}  # ' event', 'item', 'vert', ' group'
SET_6 = {15, 537, 753, 838, 1426, 1450, 1571}  # '0', ' le', '_name', 'bo', 'lect', ' item', 'box'
SET_7 = {16, 62, 258}  # '1', '_', '   '
SET_8 = {87, 220, 269, 272, 485}  # 'x', ' ', 'or', 'le', 'def'
SET_9 = {327, 338, 374, 390, 529, 537, 619, 760, 935, 958, 1151, 1172, 1265, 1276, 1595, 1605, 1681, 1797, 1848, 1971, 1996, 2030}  # 'co', ' an', ' for', ' co', ' lo', ' le', ' get', ' comp', ' read', 'join' and 12 more
SET_10 = {68, 70, 78, 81, 83, 267, 281, 346, 406, 419, 450, 480, 522, 566, 726, 753, 774, 838, 843, 1027, 1212, 1571, 1619}  # 'e', 'g', 'o', 'r', 't', 'er', 'me', 'ad', 'ter', 've' and 13 more
SET_11 = {68, 269, 292, 374}  # 'e', 'or', 'it', ' for'
SET_12 = {7, 62, 220, 258, 280, 286, 304, 644, 707, 838}  # '(', '_', ' ', '   ', ' =', ' f', ' b', 'ok', '(f', 'bo'
SET_13 = {981, 1102}  # ' print', 'mb'
SET_14 = {68, 87, 284, 286, 304, 313, 328, 374, 528, 537, 666, 751, 774, 843, 958, 1017, 1125, 1128, 1209, 1581, 1595, 1690, 1788}  # 'e', 'x', ' c', ' f', ' b', 'ame', ' m', ' for', 'key', ' le' and 13 more
SET_15 = {15, 16, 62, 68, 83, 87, 267, 338, 374, 481, 492, 507, 643, 726, 843, 1017, 1027, 1151, 1209, 1251, 1265, 1581, 1672, 1690, 1787}  # '0', '1', '_', 'e', 't', 'x', 'er', ' an', ' for', 'line' and 15 more
SET_16 = {198, 336, 374, 484, 492, 505, 843, 980, 1151, 1797, 1912, 1962}  # '\\n', 'la', ' for', 'ry', 'ly', 'um', 'eld', ' la', ' while', ' find' and 2 more
SET_17 = {7, 81, 83, 220, 374, 492}  # '(', 'r', 't', ' ', ' for', 'ly'
SET_18 = {292, 313, 327, 537, 760, 1002, 1212, 1581, 1912}  # 'it', 'ame', 'co', ' le', ' comp', 'roup', 'item', 'message', 'bel'
SET_19 = {68, 838, 1245, 1265}  # 'e', 'bo', '_co', '_e'
SET_20 = {374, 480, 522, 619, 1002, 1681}  # ' for', ' me', ' g', ' get', 'roup', ' process'
SET_21 = {1094, 1595}  # ' number', ' count'
SET_22 = {313, 1818, 1912}  # 'ame', ' group', 'bel'
SET_23 = {87, 269, 292, 406}  # 'x', 'or', 'it', 'ter'
SET_24 = {1125, 1450, 1672, 1788}  # ' event', ' item', ' level', ' entry'
SET_25 = {459, 644, 679, 1027, 1251}  # ' name', 'ok', ' key', 'ity', ' node'
SET_26 = {87, 269}  # 'x', 'or'
SET_27 = {459, 1912}  # ' name', 'bel'
SET_28 = {466, 679}  # ' file', ' key'
SET_29 = {1125, 1690, 1788}  # ' event', ' field', ' entry'
SET_30 = {292, 406, 644, 1027}  # 'it', 'ter', 'ok', 'ity'
SET_31 = {313, 726, 1251, 1818}  # 'ame', 'mal', ' node', ' group'


def keep(x, least):
    return x if abs(x) >= least else 0.0


def answer(tokens):
    keys = {1: [], 2: []}
    for end in range(1, len(tokens) + 1):
        token = tokens[end - 1]
        stream_48 = -0.492 if token in SET_1 else -0.000241
        stream_105 = 0.093 if token in SET_2 else 0.166 if token in SET_3 else -0.275 if token in SET_4 else -0.169 if token in SET_5 else -0.11 if token in SET_6 else 0.000351
        stream_145 = -0.49 if token == 198 else 0.242 if token == 374 else -0.236 if token in SET_7 else 0.105 if token in SET_8 else -0.00261
        stream_162 = -0.0872 if token in SET_9 else 0.137 if token in SET_10 else 0.000279
        stream_173 = 0.484 if token == 1151 else 0.243 if token in SET_11 else -0.228 if token in SET_12 else -0.00488
        # Layer 0, neurons.
        token_80 = 0.246 if token == 1151 else -0.282 if token in SET_13 else 0.0
        token_100 = 0.145 if token == 62 else 0.303 if token == 374 else -0.000114
        neuron_0_588 = max(0.0, 3.51 * token_80 - 0.5 * 0.0 - 4.63 * token_100 + 3.08 * -0.025 + 1.31)
        neuron_0_679 = max(0.0, 1.78 * 0.0156 - 1.9 * -0.00153 + 2.54 * token_100 - 0.0638)
        stream_105 += -0.713 * neuron_0_588 + 0.0522 * neuron_0_679 - 0.566
        stream_130 = 0.172 * neuron_0_679 + 0.00769
        stream_145 += 0.0605 * neuron_0_679 + 0.0199
        keys[1].append([])
        # Layer 1, head 3, beside its sink.
        weights = [exp(-0.11125)] * len(keys[1])
        total = sum(weights) + exp(2.68)
        attended_1_3 = sum(weights) / total
        # Layer 1, head 4, beside its sink.
        weights = [exp(-0.555)] * len(keys[1])
        total = sum(weights) + exp(6.96)
        attended_1_4 = sum(weights) / total
        stream_162 += -0.307 * attended_1_3 - 21.6 * attended_1_4 + 0.82  # in an indented line (keeps 53%, F1 0.82)
        token_24 = 0.134 if token in SET_14 else 6.05e-05
        token_56 = -0.225 if token in SET_15 else 0.0236
        token_136 = -0.294 if token in SET_16 else 0.00843
        token_143 = -0.181 if token in SET_17 else 0.178 if token in SET_18 else 0.00033
        token_148 = -0.411 if token in SET_19 else 0.222 if token in SET_20 else -0.0112
        token_189 = 0.39 if token == 1151 else -0.0101
        keys[2].append([10.1 * stream_162 - 0.474 * token_189 - 8.19, 0.633, 1.72 * token_56 + 3.95 * stream_162 - 1.28 * token_189 - 2.65, -1.29 * token_143 - 5.98 * stream_162 + 0.54, 1.09 * -0.0218 + 0.82 * stream_105 + 0.201 * stream_130 - 6.88 * stream_162 + 5.45, 4.12 * token_189 + 0.0781, 0.879 * stream_105 - 0.602 * stream_173 + 0.285, -0.552 * stream_105 + 2.98 * -0.0256 + 2.71 * token_189 - 0.258, -0.257, 1.58 * 0.00544 - 2.4 * token_189 - 0.0165, 0.671 * stream_105 + 0.13, -1.37 * token_24 - 2.06 * token_148 - 0.291, -4.22 * token_24 - 1.72 * 0.00544 + 1.24 * token_56 + 0.729 * token_136 + 1.39 * token_143 - 0.288 * stream_145 - 0.987 * token_148 + 0.266 * 0.0158 - 0.422])
        if end < len(tokens):
            continue
        # Layer 2, head 4, beside its sink.
        weights = [exp(0.25 * (-10.4 * past[0] + 4.4)) for past in keys[2]]
        total = sum(weights) + exp(0.501)
        moved_2_67 = sum(w * past[5] for w, past in zip(weights, keys[2])) / total
        moved_2_74 = sum(w * past[6] for w, past in zip(weights, keys[2])) / total
        moved_2_75 = sum(w * past[7] for w, past in zip(weights, keys[2])) / total
        # Layer 2, head 8, beside its sink.
        weights = [exp(0.25 * (-4.49 * past[1] + 19.7)) for past in keys[2]]
        total = sum(weights) + exp(-3.01)
        moved_2_141 = sum(w * past[8] for w, past in zip(weights, keys[2])) / total
        # Layer 2, head 9, beside its sink.
        weights = [exp(0.25 * (-6.4 * past[2] + 8.96)) for past in keys[2]]
        total = sum(weights) + exp(-2.07)
        moved_2_154 = sum(w * past[9] for w, past in zip(weights, keys[2])) / total
        # Layer 2, head 11, beside its sink.
        weights = [exp(0.25 * (3.2 * past[3] + 6.16 * past[4] + 40.4)) for past in keys[2]]
        total = sum(weights) + exp(-2.88)
        moved_2_176 = sum(w * past[10] for w, past in zip(weights, keys[2])) / total
        moved_2_184 = sum(w * past[11] for w, past in zip(weights, keys[2])) / total
        moved_2_186 = sum(w * past[12] for w, past in zip(weights, keys[2])) / total
        stream_1 = keep(-0.106 * moved_2_186 + 0.167, 0.0817)
        stream_10 = keep(0.32 * moved_2_74 - 0.296 * moved_2_75 - 0.204, 0.0817)
        stream_35 = keep(0.137 * moved_2_186 - 0.0329, 0.0817)
        stream_48 += keep(-0.168 * moved_2_67 - 0.577 * moved_2_186 + 0.0862, 0.0817)
        stream_62 = keep(-0.103 * moved_2_67 - 0.259, 0.0817)
        stream_67 = keep(0.311 * moved_2_75 + 0.343, 0.0817)
        stream_102 = keep(0.0996 * moved_2_67 - 0.134 * moved_2_74 + 0.131 * moved_2_75 + 0.17 * moved_2_186 + 0.432, 0.0817)
        stream_123 = keep(-0.0736 * moved_2_74 - 0.209, 0.0817)
        stream_126 = keep(-0.27 * moved_2_75 + 0.224 * moved_2_154 + 0.208 * moved_2_176 + 0.165, 0.0817)
        stream_130 += keep(0.26 * moved_2_186 - 0.0814, 0.0817)
        stream_133 = keep(0.157 * moved_2_75 + 0.209, 0.0817)
        stream_144 = keep(-0.445 * moved_2_184 - 0.0127, 0.0817)
        stream_145 += keep(0.229 * moved_2_141 + 0.166 * moved_2_186 - 0.0787, 0.0817)
        stream_160 = keep(0.155 * moved_2_74 + 0.204 * moved_2_154 - 0.0947, 0.0817)
        stream_173 += keep(0.202 * moved_2_186 + 0.18, 0.0817)
        # Layer 3, neurons.
        neuron_3_417 = max(0.0, -0.615 * stream_35 + 1.19 * stream_48 - 1.97 * stream_102 - 0.851 * stream_130 + 1.59 * stream_144 - 0.728 * stream_145 - 1.07 * stream_173 - 1.53)
        stream_10 += 0.282 * neuron_3_417 + 0.0403
        stream_62 += 0.242 * neuron_3_417 + 0.383
        stream_67 += -0.39 * neuron_3_417 - 1.23
        stream_74 = 0.177 * neuron_3_417 + 0.0897
        stream_123 += -0.371 * neuron_3_417 - 0.187
        stream_144 += 0.205 * neuron_3_417 - 0.106
    return {
        271: -1.24 * stream_1 - 0.836 * stream_10 - 0.517 * stream_48 - 0.553 * stream_62 + 0.477 * stream_67 - 0.698 * stream_74 + 0.826 * stream_123 - 1.1 * stream_126 + 0.41 * stream_133 + 0.763 * stream_145 - 1.34 * stream_160 - 3.96 + (-5.88 if token in SET_21 else -7.07 if token in SET_22 else -9.58 if token in SET_23 else -5.5 if token in SET_24 else -7.79 if token in SET_25 else -6.06),  # :\n
        308: -0.425 * stream_1 + 0.362 * stream_62 - 0.731 * stream_102 - 0.681 * stream_123 + 2.26 * -0.142 + 0.506 * stream_144 - 0.315 * stream_145 - 0.146 * stream_160 - 2.97 + (-6.75 if token == 643 else -5.38 if token == 1450 else -11.3 if token in SET_26 else -8.0 if token in SET_27 else -7.88 if token in SET_28 else -5.98 if token in SET_29 else -9.08 if token in SET_30 else -7.04 if token in SET_31 else -6.41),  #  in
    }
