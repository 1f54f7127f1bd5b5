# The circuit for enumerate_range, simplified: right on 174,930 of 174,930 prompts, where the circuit itself is on 174,930
# mean pairwise loss 0.042, of the circuit itself 0.025. Tokens are ids; comments have their texts.
from math import exp

SET_1 = {308, 1431}  # ' in', 'uct'
SET_2 = {75, 79, 275, 660}  # 'l', 'p', 'st', 'red'
SET_3 = {6, 277, 313, 327, 351, 420, 978}  # "'", 'at', 'ame', 'co', 'one', "',", 'ha'
SET_4 = {82, 278, 280, 292, 385, 1209, 1581, 2026}  # 's', 'he', ' =', 'it', 'is', 'level', 'message', ' q'
SET_5 = {6, 79, 264, 270, 284, 313, 315, 328, 528, 588, 660, 666, 751, 843, 1141, 1581, 1792, 1819, 2026}  # "'", 'p', ' t', ' i', ' c', 'ame', ' w', ' m', 'key', 'error' and 9 more
SET_6 = {11, 308, 560}  # ',', ' in', 'for'
SET_7 = {11, 66, 67, 75, 83, 277, 308, 420}  # ',', 'c', 'd', 'l', 't', 'at', ' in', "',"
SET_8 = {70, 277, 292}  # 'g', 'at', 'it'
SET_9 = {71, 308, 385}  # 'h', ' in', 'is'
SET_10 = {11, 67, 79, 82, 1431}  # ',', 'd', 'p', 's', 'uct'
SET_11 = {11, 420}  # ',', "',"
SET_12 = {11, 83, 264, 327, 420}  # ',', 't', ' t', 'co', "',"
SET_13 = {71, 83, 280}  # 'h', 't', ' ='
SET_14 = {11, 82, 280, 308}  # ',', 's', ' =', ' in'
SET_15 = {6, 71, 83, 277, 331, 351, 410, 528, 544, 588, 644, 660, 850, 978, 1581, 1770, 1792}  # "'", 'h', 't', 'at', 'lo', 'one', 'up', 'key', ']\\n', 'error' and 7 more
SET_16 = {66, 69, 75, 82, 83, 284, 353, 1571}  # 'c', 'f', 'l', 's', 't', ' c', 'pe', 'box'
SET_17 = {6, 267, 275, 284, 292, 308, 420, 729, 826, 1141}  # "'", 'er', 'st', ' c', 'it', ' in', "',", 'lose', 'pro', ' z'
SET_18 = {66, 75, 79, 82, 83, 267, 285, 315, 331, 843, 1209, 1431, 1581}  # 'c', 'l', 'p', 's', 't', 'er', 'al', ' w', 'lo', 'eld' and 3 more
SET_19 = {69, 275}  # 'f', 'st'
SET_20 = {83, 280}  # 't', ' ='
SET_21 = {66, 70, 263, 284, 285, 308, 315, 826}  # 'c', 'g', 're', ' c', 'al', ' in', ' w', 'pro'
SET_22 = {284, 308, 560}  # ' c', ' in', 'for'
SET_23 = {69, 353, 1819}  # 'f', 'pe', " ['"
SET_24 = {71, 277, 284, 385}  # 'h', 'at', ' c', 'is'
SET_25 = {70, 79, 266, 280, 826}  # 'g', 'p', " '", ' =', 'pro'
SET_26 = {6, 751, 1770}  # "'", 'ber', 'play'
SET_27 = {275, 285, 331, 543, 544, 560, 670, 1209}  # 'st', 'al', 'lo', 'able', ']\\n', 'for', 'sult', 'level'
SET_28 = {322, 385}  # 'ut', 'is'
SET_29 = {6, 266, 1819}  # "'", " '", " ['"
SET_30 = {11, 264, 270, 280, 284, 315, 328, 560, 751, 843, 1141, 1431, 1571, 2026}  # ',', ' t', ' i', ' =', ' c', ' w', ' m', 'for', 'ber', 'eld' and 4 more
SET_31 = {75, 280, 360, 1141}  # 'l', ' =', 'un', ' z'
SET_32 = {280, 313}  # ' =', 'ame'
SET_33 = {11, 70, 567}  # ',', 'g', 'so'
SET_34 = {82, 267, 315, 843}  # 's', 'er', ' w', 'eld'
SET_35 = {83, 285, 1431, 1581}  # 't', 'al', 'uct', 'message'
SET_36 = {66, 75, 79, 331, 1209}  # 'c', 'l', 'p', 'lo', 'level'
SET_37 = {292, 353, 644}  # 'it', 'pe', 'ok'
SET_38 = {308, 1431, 1770}  # ' in', 'uct', 'play'
SET_39 = {66, 69, 284, 420, 544, 670, 1209, 1241}  # 'c', 'f', ' c', "',", ']\\n', 'sult', 'level', 'word'
SET_40 = {280, 308, 1819}  # ' =', ' in', " ['"
SET_41 = {83, 266, 360, 385}  # 't', " '", 'un', 'is'


def answer(tokens):
    keys = {1: [], 2: [], 3: []}
    for end in range(1, len(tokens) + 1):
        seen, token = tokens[:end], tokens[end - 1]
        stream_1 = -0.321 if token == 11 else 0.0276
        stream_4 = -0.446 if token == 11 else -0.303 if token in SET_1 else 0.173 if token in SET_2 else -0.222 if token in SET_3 else -0.0918 if token in SET_4 else 0.00155
        stream_24 = 0.16 if token in SET_5 else 0.00293
        stream_53 = 0.201 if token == 280 else 0.292 if token == 308 else -0.419 if token == 322 else -0.241 if token == 420 else -0.125 if token == 567 else 0.00101
        stream_85 = -0.776 if token == 11 else 0.00461
        stream_100 = 0.229 if token in SET_6 else 0.0
        stream_114 = 0.158 if token in SET_7 else 0.00131
        stream_134 = -0.176 if token == 285 else -0.458 if token == 360 else -0.301 if token in SET_8 else -0.0727 if token in SET_9 else 0.15 if token in SET_10 else 0.00169
        # Layer 0, head 2, beside its sink.
        weights = [exp(-2.0875)] * len(seen)
        total = sum(weights) + 1.0
        moved_0_33 = sum(w * -0.551 for w, t in zip(weights, seen)) / total  # opens a string of ' (F1 0.77)
        # Layer 0, head 9, beside its sink.
        weights = [exp(-1.8175)] * len(seen)
        total = sum(weights) + 1.0
        moved_0_146 = sum(w * 0.327 for w, t in zip(weights, seen)) / total
        moved_0_151 = sum(w * -0.486 for w, t in zip(weights, seen)) / total
        # Layer 0, head 11, beside its sink.
        weights = [exp(1.6475)] * len(seen)
        total = sum(weights) + 1.0
        moved_0_177 = sum(w * 1.04 for w, t in zip(weights, seen)) / total
        stream_66 = -0.174 * moved_0_33 + 0.284 * moved_0_146 - 0.247 * moved_0_151 + 0.229 * moved_0_177 - 1.23
        stream_153 = 0.241 * moved_0_146 + 5.51
        # Layer 0, neurons.
        token_20 = 0.324 if token in SET_11 else -0.000463
        token_46 = 0.27 if token == 1571 else -0.211 if token in SET_12 else -0.00344
        token_171 = 0.265 if token == 11 else 0.149 if token == 266 else -0.0825 if token in SET_13 else -0.000249
        token_175 = 0.221 if token in SET_14 else -0.00461
        neuron_0_152 = max(0.0, 2.22 * token_20 - 0.518 * token_46 - 0.706)
        neuron_0_548 = max(0.0, 1.58 * token_20 - 1.1 * token_46 + 0.528 * -0.000678 + 0.951 * stream_66 + 2.68 * stream_100 + 2.06 * token_171 - 0.0799)
        neuron_0_588 = max(0.0, 4.83 * -0.0564 + 3.34 * -0.00898 - 3.01 * 0.00944 - 1.78 * token_171 - 0.644 * token_175 + 1.14)
        neuron_0_679 = max(0.0, 1.09 * token_20 + 2.6 * stream_100 + 0.406 * stream_114 + 0.8 * token_171 + 1.19 * token_175 - 0.0672)  # the token is ',' (keeps 86%, F1 0.57)
        neuron_0_695 = max(0.0, -1.92 * -0.00898 + 4.0 * 0.00944 - 0.134)
        stream_1 += -0.128 * neuron_0_152 - 0.292 * neuron_0_548 - 0.0575
        stream_85 += -0.117 * neuron_0_548 - 0.115
        stream_93 = -0.383 * neuron_0_548 - 0.0723
        stream_100 += 0.158 * neuron_0_152 + 0.141 * neuron_0_548 + 0.599 * neuron_0_679 + 0.135
        stream_105 = -0.713 * neuron_0_588 + 0.0522 * neuron_0_679 - 0.355
        stream_131 = -0.054 * neuron_0_588 + 0.0692 * neuron_0_679 + 0.33 * neuron_0_695 + 0.335  # ends a line (F1 0.74)
        keys[1].append([])
        # Layer 1, head 3, beside its sink.
        weights = [exp(0.129)] * len(keys[1])
        total = sum(weights) + exp(2.68)
        attended_1_3 = sum(weights) / total
        # Layer 1, head 4, beside its sink.
        weights = [exp(-0.555)] * len(keys[1])
        total = sum(weights) + exp(6.96)
        attended_1_4 = sum(weights) / total
        stream_162 = -0.307 * attended_1_3 - 21.6 * attended_1_4 + 0.827
        # Layer 1, neurons.
        token_164 = -0.195 if token in SET_15 else 0.0846
        token_180 = -0.207 if token in SET_16 else 0.00438
        neuron_1_537 = max(0.0, -1.26 * 0.0 + 1.28 * 0.00382 - 0.343 * 0.0 - 1.11 * 0.0 + 1.43 * 0.00127 + 0.833 * 0.0 - 1.54 * token_164 - 3.38 * 0.0 + 0.996 * token_180 - 1.58)
        stream_1 += 0.0631 * neuron_1_537 - 0.0567  # the token is " \'" (F1 0.71)
        stream_17 = -0.2 * neuron_1_537 - 0.00282  # the token is " \'" (F1 0.93)
        stream_97 = -0.413 * neuron_1_537 - 0.00402
        stream_129 = 0.276 * neuron_1_537 + 0.00799  # the token is " \'" (F1 0.92)
        stream_141 = -0.0852 * neuron_1_537 - 0.00438
        token_20 = 0.358 if token == 11 else 0.048 if token == 278 else 0.294 if token == 420 else -0.000925
        token_35 = -0.141 if token in SET_17 else 0.00218
        token_46 = 0.27 if token == 1571 else -0.211 if token in SET_12 else -0.00344
        token_56 = -0.242 if token in SET_18 else 0.0285
        token_72 = 0.249 if token == 544 else -0.362 if token == 1770 else -0.261 if token in SET_19 else 0.151 if token in SET_20 else -0.112 if token in SET_21 else 0.000121
        token_90 = 0.168 if token == 266 else -0.0902 if token in SET_22 else 0.000988
        token_91 = 0.218 if token == 308 else 0.412 if token == 567 else -0.261 if token in SET_23 else 0.122 if token in SET_24 else -0.0888 if token in SET_25 else 0.000504
        token_122 = -0.414 if token in SET_26 else 0.193 if token in SET_27 else 0.000227
        token_123 = 0.403 if token in SET_28 else -0.247 if token in SET_29 else 0.00566
        token_138 = -0.155 if token in SET_30 else 0.0715
        token_164 = -0.195 if token in SET_15 else 0.0846
        keys[2].append([0.841 * stream_105 - 1.27 * token_138 - 2.65 * stream_162 - 0.21, 0.178 * stream_1 + 0.652 * token_46 + 10.3 * stream_162 - 0.0593 * 0.246 - 8.03, -1.16 * token_35 - 2.18 * token_72 - 1.41 * token_122 - 1.26 * token_123 - 0.416 * stream_129 - 0.931 * stream_153 + 0.506 * 0.246 + 1.06, 0.871 * stream_17 + 0.486 * stream_97 - 1.01 * -0.000258 - 0.984, 0.684 * stream_1 - 0.137 * stream_17 + 0.889 * stream_105 + 0.149 * stream_131 - 0.208 * 0.246 + 1.43, -6.1 * stream_162 + 0.502, -0.185 * stream_1 - 1.16 * token_72 + 0.0787 * stream_97 + 0.836 * stream_105 + 0.527 * token_123 - 0.71 * stream_129 - 7.01 * stream_162 + 5.42, -0.497 * stream_1 + 1.83 * token_20 - 1.1 * token_46 - 0.743 * stream_93 - 0.0924, 2.73 * token_20 - 0.772 * token_46 - 0.0259, -0.269 * stream_1 + 1.91 * token_20 - 0.784 * token_46 + 0.295 * token_56 - 0.111 * stream_85 - 0.298 * stream_93 + 1.67 * token_122 - 2.16 * token_138 + 0.0039, 1.62 * token_20 - 1.95 * token_72 + 2.51 * token_91 + 0.896 * stream_105 + 1.09 * token_123 + 0.145 * stream_131 + 1.96 * token_164 + 0.192 * 0.246 + 0.306, -1.2 * token_72 - 0.041, 0.13 * stream_17 - 1.08 * stream_53 - 1.27 * token_72 + 0.42 * stream_97 - 0.0877 * stream_105 - 1.36 * token_122 - 0.942 * stream_129 + 0.826 * stream_141 - 1.69 * -0.000258 - 0.174, 0.17 * stream_1 + 1.05 * token_46 + 0.349 * token_72 + 0.412 * stream_85 - 1.48 * token_91 + 0.394 * stream_93 + 0.0212, 0.344 * stream_105 + 1.18 * token_164 + 0.313, 1.55 * token_20 - 1.09 * token_90 + 1.64 * token_91 + 0.52 * 0.0494 - 0.148 * stream_93 - 1.45 * token_138 - 0.218])
        # Layer 2, head 0, beside its sink.
        weights = [exp(0.25 * (4.74 * past[0] + 32.0)) for past in keys[2]]
        total = sum(weights) + exp(-0.0986)
        moved_2_6 = sum(w * past[7] for w, past in zip(weights, keys[2])) / total
        moved_2_9 = sum(w * past[8] for w, past in zip(weights, keys[2])) / total
        # Layer 2, head 4, beside its sink.
        weights = [exp(0.25 * (-10.4 * past[1] + 4.4)) for past in keys[2]]
        total = sum(weights) + exp(0.501)
        moved_2_70 = sum(w * past[9] for w, past in zip(weights, keys[2])) / total
        moved_2_74 = sum(w * past[10] for w, past in zip(weights, keys[2])) / total
        attended_2_4 = sum(weights) / total
        # Layer 2, head 7, beside its sink.
        weights = [exp(0.25 * ((-0.868 * token_56 + 0.185 * stream_93 - 0.51 * 0.246 - 0.982) * past[2] + (1.21 * token_35 - 0.573) * past[3] + (2.53 * token_123 + 0.303 * 0.246 + 5.62) * past[4] + 8.88)) for past in keys[2]]
        total = sum(weights) + exp(-2.32)
        moved_2_113 = sum(w * past[11] for w, past in zip(weights, keys[2])) / total
        moved_2_117 = sum(w * past[12] for w, past in zip(weights, keys[2])) / total
        # Layer 2, head 11, beside its sink.
        weights = [exp(0.25 * (3.2 * past[5] + 6.07 * past[6] + 40.4)) for past in keys[2]]
        total = sum(weights) + exp(-2.88)
        moved_2_178 = sum(w * past[13] for w, past in zip(weights, keys[2])) / total
        moved_2_186 = sum(w * past[14] for w, past in zip(weights, keys[2])) / total
        moved_2_188 = sum(w * past[15] for w, past in zip(weights, keys[2])) / total
        stream_1 += -0.201 * moved_2_9 + 0.179 * moved_2_113 + 0.352 * moved_2_178 + 0.0916
        stream_4 += 0.115 * moved_2_117 - 0.262
        stream_24 += -0.384 * moved_2_6 - 0.408 * moved_2_70 + 0.283 * moved_2_178 - 0.184 * moved_2_188 - 0.0964
        stream_34 = 0.161 * moved_2_9 + 0.165 * moved_2_70 + 0.318 * moved_2_74 - 0.201 * moved_2_117 - 0.26 * moved_2_178 + 0.188
        stream_64 = 0.289 * moved_2_6 + 0.101 * moved_2_70 + 0.181 * moved_2_74 - 0.252 * moved_2_113 - 0.301 * moved_2_117 + 0.127 * attended_2_4 + 0.375
        stream_102 = -0.133 * moved_2_6 - 0.17 * moved_2_70 - 0.134 * moved_2_74 + 0.081 * moved_2_117 - 0.132 * moved_2_188 + 0.463
        stream_114 += 0.292 * moved_2_6 + 0.135 * moved_2_9 - 0.37 * moved_2_117 + 0.278 * moved_2_186 + 0.156 * moved_2_188 + 0.753
        token_11 = 0.333 if token in SET_31 else 0.00409
        token_20 = 0.358 if token == 11 else 0.048 if token == 278 else 0.294 if token == 420 else -0.000925
        token_56 = 0.271 if token in SET_32 else 0.135 if token in SET_33 else -0.377 if token in SET_34 else -0.135 if token in SET_35 else -0.185 if token in SET_36 else -0.00103
        token_92 = -0.157 if token in SET_37 else 0.366 if token in SET_38 else 0.165 if token in SET_39 else -0.00075
        token_138 = -0.155 if token in SET_30 else 0.0715
        token_188 = 0.726 if token in SET_40 else 0.336 if token in SET_41 else 0.0389
        keys[3].append([-1.32 * token_20 + 0.451 * stream_93 + 2.78 * token_138 - 2.71, 0.426 * stream_4 + 2.32 * token_11 - 2.8 * token_20 + 0.741 * stream_85 + 0.3 * stream_102 + 0.89 * -0.0834 + 0.0315, 0.732 * stream_1 + 0.297 * stream_4 - 2.1 * token_20 + 0.497 * stream_102 + 0.212 * token_188 - 2.9, -0.195 * stream_1 + 0.21 * stream_34 + 0.949 * token_56 + 0.259 * stream_100 - 0.145 * token_188 + 8.18, 0.122 * stream_1 + 0.169 * stream_24 - 0.143 * stream_34 + 0.254 * stream_85 + 0.332 * stream_102 - 10.3, 0.764 * 0.121 + 0.177 * 0.0 + 0.358 * stream_93 + 2.66 * token_138 - 0.284, 4.42 * token_20 - 0.276 * stream_24 + 0.824 * token_56 - 1.22 * stream_85 + 0.238 * stream_100 + 0.855 * stream_134 - 0.148 * token_188 + 0.109, -2.99 * token_20 - 0.144 * stream_34 + 1.18 * token_138 - 0.307])
        if end < len(tokens):
            continue
        # Layer 3, head 1, beside its sink.
        weights = [exp(0.25 * ((0.381 * stream_4 - 0.747 * stream_53 - 0.483 * stream_64 + 0.195 * -0.142 + 0.198 * 0.0 - 1.08 * token_92 + 0.302 * stream_102 - 0.747) * past[1] + (0.512 * stream_1 + 0.532 * stream_4 - 0.132 * stream_64 - 3.52 * token_92 + 0.396 * stream_102 - 0.647 * stream_114 - 0.295 * token_188 - 0.37) * past[2] + -0.953 * past[0] + 4.26 * past[3] + -4.16 * past[4] + -0.149)) for past in keys[3]]
        total = sum(weights) + exp(-4.1)
        moved_3_21 = sum(w * past[5] for w, past in zip(weights, keys[3])) / total
        moved_3_23 = sum(w * past[6] for w, past in zip(weights, keys[3])) / total  # the token is ',' (keeps 100%, F1 1.00)
        moved_3_26 = sum(w * past[7] for w, past in zip(weights, keys[3])) / total
        stream_134 += 0.183 * moved_3_21 - 0.428 * moved_3_23 + 0.281 * moved_3_26 - 0.306
        # Layer 3, neurons.
        neuron_3_680 = max(0.0, -1.42 * stream_134 - 1.45)
        stream_53 += -0.501 * neuron_3_680 + 0.181
        stream_79 = 0.295 * neuron_3_680 + 0.65
        stream_94 = 0.246 * neuron_3_680 + 1.38
    return {
        595: -2.03 * stream_53 + 0.582 * stream_94 - 1.18 * stream_134 - 15.5,  #  en
        1667: -0.427 * stream_79 + 1.59 * stream_134 - 11.5,  #  range
    }
