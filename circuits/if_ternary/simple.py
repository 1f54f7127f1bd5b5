# The circuit for if_ternary, simplified: right on 1,318,912 of 1,318,912 prompts, where the circuit itself is on 1,318,91
# mean pairwise loss 0.199, of the circuit itself 0.189. Tokens are ids; comments have their texts.
from math import exp

SET_1 = {70, 78, 311, 1209}  # 'g', 'o', ' if', 'level'
SET_2 = {17, 18}  # '2', '3'
SET_3 = {311, 833}  # ' if', 'if'
SET_4 = {16, 17, 198, 1278}  # '1', '2', '\\n', '32'
SET_5 = {311, 520, 833}  # ' if', ' ==', 'if'
SET_6 = {280, 1141}  # ' =', ' z'
SET_7 = {220, 304}  # ' ', ' b'
SET_8 = {520, 666}  # ' ==', 'unt'
SET_9 = {311, 315, 833}  # ' if', ' w', 'if'
SET_10 = {15, 16, 17, 18, 24, 87, 311, 315, 327, 843, 1017, 1209, 1581, 1672, 1690}  # '0', '1', '2', '3', '9', 'x', ' if', ' w', 'co', 'eld' and 5 more
SET_11 = {15, 16, 17, 18, 21, 22, 24, 1347, 2003}  # '0', '1', '2', '3', '6', '7', '9', '11', '14'
SET_12 = {198, 833}  # '\\n', 'if'
SET_13 = {198, 843}  # '\\n', 'eld'
SET_14 = {311, 522}  # ' if', ' g'
SET_15 = {78, 198, 327, 843}  # 'o', '\\n', 'co', 'eld'
SET_16 = {1595, 1690}  # ' count', ' field'
SET_17 = {16, 270, 311, 833}  # '1', ' i', ' if', 'if'
SET_18 = {566, 666, 843, 1141}  # 'fi', 'unt', 'eld', ' z'
SET_19 = {78, 198}  # 'o', '\\n'
SET_20 = {520, 833}  # ' ==', 'if'
SET_21 = {78, 198, 280}  # 'o', '\\n', ' ='
SET_22 = {18, 1278}  # '3', '32'
SET_23 = {24, 1347, 2003}  # '9', '11', '14'


def answer(tokens):
    keys = {2: []}
    for end in range(1, len(tokens) + 1):
        token = tokens[end - 1]
        stream_43 = 0.121 if token in SET_1 else -0.0102
        stream_126 = -0.0803 if token == 311 else 0.0901 if token in SET_2 else 0.000708
        stream_145 = -0.49 if token == 198 else 0.0198
        stream_173 = 0.383 if token in SET_3 else -0.0529
        # Layer 0, neurons.
        token_42 = 0.348 if token == 327 else -0.153 if token in SET_4 else 0.0124
        token_100 = 0.264 if token in SET_3 else -0.000164
        token_189 = 0.136 if token in SET_5 else -0.019
        neuron_0_588 = max(0.0, -2.44 * 0.0363 + 3.23 * token_42 - 4.56 * token_100 - 0.623 * 0.0944 + 1.35)
        neuron_0_679 = max(0.0, 2.51 * token_100 + 1.15 * 0.0944 + 2.08 * token_189 - 0.0724)  # the token is ',' (F1 0.57)
        stream_105 = -0.713 * neuron_0_588 + 0.0522 * neuron_0_679 - 0.566
        stream_145 += 0.0605 * neuron_0_679 + 0.0199
        token_11 = -0.327 if token == 327 else 0.105 if token == 833 else 0.35 if token in SET_6 else 0.0
        token_46 = -0.443 if token in SET_7 else -0.00342
        token_55 = -0.426 if token in SET_8 else 0.224 if token in SET_9 else -0.00399
        token_56 = -0.141 if token in SET_10 else 0.0579
        token_114 = 0.332 if token in SET_11 else 0.000873
        token_116 = -0.251 if token == 311 else -0.00145
        token_134 = -0.305 if token == 70 else 0.061 if token == 87 else -0.179 if token == 311 else -0.109 if token in SET_12 else -9.88e-05
        token_136 = -0.301 if token in SET_13 else 0.0118
        token_148 = 0.142 if token in SET_14 else -0.114 if token in SET_15 else -0.00406
        token_163 = 0.414 if token in SET_16 else -0.121 if token in SET_17 else 0.247 if token in SET_18 else 0.0147
        token_186 = -0.309 if token in SET_19 else 0.000804
        token_189 = 0.22 if token == 311 else 0.109 if token in SET_20 else -0.0776 if token in SET_21 else 0.0
        keys[2].append([1.5 * stream_43 - 1.65 * stream_126 + 0.199 * stream_145 + 1.3 * token_148 + 1.76, 0.613 * token_11 - 1.51 * stream_43 - 0.833 * stream_105 + 1.84 * token_114 + 2.68 * stream_126 - 0.189 * stream_145 - 1.05 * token_148 - 4.59, 1.51 * token_11 - 1.66 * stream_43 - 1.44 * token_46 + 1.67 * token_56 - 0.978 * stream_105 + 1.08 * token_114 + 0.481 * token_116 + 2.47 * stream_126 - 0.0734 * 0.302 + 1.04 * token_136 + 1.2 * token_163 - 1.24 * token_189 - 6.59, -0.484, -1.63 * token_56 - 2.02 * token_116 + 1.33 * token_148 + 1.93 * token_189 + 0.00106, 1.85 * token_55 - 1.66 * token_116 - 0.595 * stream_126 + 0.263 * stream_145 + 0.561 * stream_173 + 0.00753, 1.07 * token_56 + 0.273 * 0.00728 + 1.37 * token_114 + 1.34 * token_116 + 1.68 * token_134 - 1.22 * token_148 - 0.597 * stream_173 - 0.999 * token_189 - 0.0894, 1.07 * token_11 - 1.65 * stream_43 + 1.81 * token_116 - 1.36 * token_136 - 0.372 * stream_145 - 2.62 * token_148 - 1.5 * token_186 - 1.02 * token_189 + 0.0422, 1.71 * token_11 + 0.806 * token_134 + 0.991 * token_163 - 0.716 * stream_173 - 0.839 * token_189 - 0.0532, -1.87 * stream_43 - 1.37 * 0.000282 + 0.774 * token_134 - 2.32 * token_189 - 0.0297])
        if end < len(tokens):
            continue
        # Layer 2, head 0, beside its sink.
        weights = [exp(8.375)] * len(keys[2])
        total = sum(weights) + exp(-0.0986)
        moved_2_12 = sum(w * past[3] for w, past in zip(weights, keys[2])) / total  # the token is '   ' (F1 0.69)
        # Layer 2, head 8, beside its sink.
        weights = [exp(0.25 * (5.11 * past[0] + -4.49 * past[1] + 10.9)) for past in keys[2]]
        total = sum(weights) + exp(-3.01)
        moved_2_131 = sum(w * past[4] for w, past in zip(weights, keys[2])) / total
        moved_2_138 = sum(w * past[5] for w, past in zip(weights, keys[2])) / total
        # Layer 2, head 9, beside its sink.
        weights = [exp(0.25 * (-7.23 * past[2] + 8.96)) for past in keys[2]]
        total = sum(weights) + exp(-2.07)
        moved_2_144 = sum(w * past[6] for w, past in zip(weights, keys[2])) / total
        moved_2_148 = sum(w * past[7] for w, past in zip(weights, keys[2])) / total
        moved_2_152 = sum(w * past[8] for w, past in zip(weights, keys[2])) / total
        moved_2_154 = sum(w * past[9] for w, past in zip(weights, keys[2])) / total
        stream_10 = -0.0428 * moved_2_144 - 0.0247 * moved_2_148 - 0.0684 * moved_2_152 - 0.624
        stream_43 += 0.36 * moved_2_131 - 0.123 * moved_2_144 - 0.0716 * moved_2_152 - 0.00739
        stream_60 = 0.208 * moved_2_138 - 0.079 * moved_2_144 - 0.063 * moved_2_152 - 0.0224
        stream_67 = 0.159 * moved_2_131 - 0.213 * moved_2_144 - 0.156 * moved_2_148 - 0.188 * moved_2_152 - 0.212 * moved_2_154 + 1.02
        stream_71 = 0.265 * moved_2_138 - 0.134 * moved_2_144 - 0.16 * moved_2_148 - 0.138 * moved_2_152 - 0.29 * moved_2_154 - 0.153
        stream_77 = 0.105 * moved_2_131 - 0.123 * moved_2_148 - 0.136 * moved_2_152 - 0.0803 * moved_2_154 + 0.591
        stream_86 = -0.464 * moved_2_12 - 0.157 * moved_2_148 + 0.761
        stream_102 = 0.364 * moved_2_144 + 0.623
        stream_123 = -0.201 * moved_2_131 - 0.221 * moved_2_138 + 0.0702 * moved_2_154 - 0.182  # the line is blank so far (F1 0.52)
        stream_145 += -0.255 * moved_2_138 + 0.265 * moved_2_148 - 0.171
        stream_165 = 0.158 * moved_2_144 + 0.0932 * moved_2_152 - 2.37
        stream_173 += -0.2 * moved_2_138 + 0.12 * moved_2_144 + 0.0851 * moved_2_148 + 0.253 * moved_2_152 + 0.141
    return {
        271: -0.711 * stream_10 + 0.406 * stream_67 + 0.467 * stream_71 + 0.198 * stream_77 + 0.703 * stream_123 - 0.817 * 0.0 + 0.649 * stream_145 - 0.458 * stream_173 - 5.77 + (-6.54 if token in SET_22 else -5.54),  # :\n
        491: 0.616 * stream_43 + 0.725 * stream_60 + 1.08 * stream_67 + 1.74 * stream_71 + 1.02 * stream_77 + 0.308 * stream_86 - 0.915 * stream_102 - 0.551 * stream_165 - 0.874 * stream_173 - 7.56 + (-6.81 if token in SET_23 else -7.76),  #  else
    }
