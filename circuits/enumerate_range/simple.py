# The circuit for enumerate_range, simplified: right on 153,664 of 153,664 prompts, where the circuit itself is on 153,664
# mean pairwise loss 0.043, of the circuit itself 0.025. Tokens are ids; comments have their texts.
from math import exp

SET_1 = {75, 79}  # 'l', 'p'
SET_2 = {6, 277, 313, 327, 420, 978}  # "'", 'at', 'ame', 'co', "',", 'ha'
SET_3 = {278, 280, 385, 1209, 1581, 2026}  # 'he', ' =', 'is', 'level', 'message', ' q'
SET_4 = {6, 79, 264, 270, 284, 313, 315, 328, 528, 588, 666, 751, 843, 1141, 1581, 1819, 2026}  # "'", 'p', ' t', ' i', ' c', 'ame', ' w', ' m', 'key', 'error' and 7 more
SET_5 = {264, 285, 544, 560}  # ' t', 'al', ']\\n', 'for'
SET_6 = {11, 308, 560}  # ',', ' in', 'for'
SET_7 = {11, 66, 67, 75, 277, 308, 420}  # ',', 'c', 'd', 'l', 'at', ' in', "',"
SET_8 = {70, 277, 285}  # 'g', 'at', 'al'
SET_9 = {11, 67, 75, 79}  # ',', 'd', 'l', 'p'
SET_10 = {66, 67, 70, 71, 75, 79, 285, 566, 843, 1571}  # 'c', 'd', 'g', 'h', 'l', 'p', 'al', 'fi', 'eld', 'box'
SET_11 = {11, 420}  # ',', "',"
SET_12 = {11, 264, 327, 420}  # ',', ' t', 'co', "',"
SET_13 = {71, 280}  # 'h', ' ='
SET_14 = {11, 280, 308}  # ',', ' =', ' in'
SET_15 = {11, 70}  # ',', 'g'
SET_16 = {285, 1581}  # 'al', 'message'
SET_17 = {315, 843}  # ' w', 'eld'
SET_18 = {66, 75, 79, 331, 1209}  # 'c', 'l', 'p', 'lo', 'level'
SET_19 = {280, 544}  # ' =', ']\\n'
SET_20 = {66, 70, 284, 285, 308, 315}  # 'c', 'g', ' c', 'al', ' in', ' w'
SET_21 = {284, 308, 560}  # ' c', ' in', 'for'
SET_22 = {70, 79, 266, 280}  # 'g', 'p', " '", ' ='
SET_23 = {71, 277, 284, 385}  # 'h', 'at', ' c', 'is'
SET_24 = {6, 751}  # "'", 'ber'
SET_25 = {285, 331, 544, 560, 1209}  # 'al', 'lo', ']\\n', 'for', 'level'
SET_26 = {6, 266, 1819}  # "'", " '", " ['"
SET_27 = {11, 264, 270, 280, 284, 315, 328, 560, 751, 843, 1141, 1571, 2026}  # ',', ' t', ' i', ' =', ' c', ' w', ' m', 'for', 'ber', 'eld' and 3 more
SET_28 = {6, 71, 277, 331, 528, 544, 588, 644, 850, 978, 1581}  # "'", 'h', 'at', 'lo', 'key', ']\\n', 'error', 'ok', 'no', 'ha' and 1 more
SET_29 = {280, 1819}  # ' =', " ['"
SET_30 = {69, 75, 544}  # 'f', 'l', ']\\n'
SET_31 = {66, 69, 284, 420, 544, 1209}  # 'c', 'f', ' c', "',", ']\\n', 'level'


def answer(tokens):
    keys = {1: [], 2: [], 3: []}
    for end in range(1, len(tokens) + 1):
        seen, token = tokens[:end], tokens[end - 1]
        stream_1 = -0.321 if token == 11 else 0.0222
        stream_4 = -0.446 if token == 11 else -0.3 if token == 308 else 0.149 if token in SET_1 else -0.223 if token in SET_2 else -0.086 if token in SET_3 else 0.000752
        stream_24 = 0.158 if token in SET_4 else 0.0037
        stream_53 = 0.201 if token == 280 else 0.292 if token == 308 else -0.241 if token == 420 else 0.00182
        stream_85 = -0.776 if token == 11 else 0.00574
        stream_97 = -0.267 if token in SET_5 else 0.0107
        stream_100 = 0.229 if token in SET_6 else 0.0
        stream_114 = 0.159 if token in SET_7 else 0.0
        stream_134 = -0.263 if token in SET_8 else 0.137 if token in SET_9 else -0.00567
        stream_162 = 0.138 if token in SET_10 else -0.00726
        # Layer 0, head 9, beside its sink.
        weights = [exp(-1.8175)] * len(seen)
        total = sum(weights) + 1.0
        moved_0_146 = sum(w * 0.334 for w, t in zip(weights, seen)) / total
        attended_0_9 = sum(weights) / total
        stream_89 = -0.0734 * attended_0_9 - 1.71
        stream_153 = 0.241 * moved_0_146 + 5.52
        # Layer 0, neurons.
        token_20 = 0.323 if token in SET_11 else 7e-05
        token_46 = 0.27 if token == 1571 else -0.208 if token in SET_12 else -0.00278
        token_171 = 0.265 if token == 11 else 0.149 if token == 266 else -0.0815 if token in SET_13 else 0.0
        token_175 = 0.224 if token in SET_14 else 5.22e-06
        neuron_0_152 = max(0.0, -0.518 * token_46 - 0.598)
        neuron_0_548 = max(0.0, 1.58 * token_20 - 1.1 * token_46 + 0.528 * -0.00263 + 2.68 * stream_100 + 2.06 * token_171 - 0.876)  # the token is ',' (keeps 93%, F1 0.21)
        neuron_0_588 = max(0.0, 4.83 * -0.0554 + 3.34 * -0.00587 - 3.01 * 0.00873 - 1.78 * token_171 - 0.644 * token_175 + 1.14)
        neuron_0_679 = max(0.0, 1.09 * token_20 + 2.59 * stream_100 + 0.406 * stream_114 + 0.8 * token_171 + 1.19 * token_175 - 0.067)  # the token is ',' (keeps 86%, F1 0.57)
        neuron_0_695 = max(0.0, -1.92 * -0.00587 + 4.0 * 0.00873 - 0.134)
        stream_1 += -0.128 * neuron_0_152 - 0.292 * neuron_0_548 - 0.0591  # the token is ',' (keeps 94%, F1 0.19)
        stream_85 += -0.117 * neuron_0_548 - 0.115
        stream_93 = -0.383 * neuron_0_548 - 0.0735
        stream_100 += 0.158 * neuron_0_152 + 0.141 * neuron_0_548 + 0.599 * neuron_0_679 + 0.135  # the token is ',' (keeps 101%, F1 0.24)
        stream_105 = -0.713 * neuron_0_588 + 0.0522 * neuron_0_679 - 0.354
        stream_131 = 0.0692 * neuron_0_679 + 0.33 * neuron_0_695 + 0.297  # ends a line (F1 0.74)
        keys[1].append([])
        # Layer 1, head 3, beside its sink.
        weights = [exp(0.129)] * len(keys[1])
        total = sum(weights) + exp(2.68)
        attended_1_3 = sum(weights) / total
        # Layer 1, head 4, beside its sink.
        weights = [exp(-0.555)] * len(keys[1])
        total = sum(weights) + exp(6.96)
        attended_1_4 = sum(weights) / total
        stream_162 += -0.307 * attended_1_3 - 21.6 * attended_1_4 + 0.827
        # Layer 1, neurons.
        neuron_1_537 = max(0.0, -1.26 * 0.0 + 1.28 * 0.00356 - 0.343 * stream_89 - 1.11 * stream_97 + 1.43 * 0.00114 + 0.833 * 0.0 - 3.38 * 0.0 + 0.996 * -0.0153 - 2.24)
        stream_1 += 0.0631 * neuron_1_537 - 0.0569  # the token is " \'" (F1 0.71)
        stream_17 = -0.2 * neuron_1_537 - 0.00282  # the token is " \'" (F1 0.93)
        stream_97 += -0.413 * neuron_1_537 - 0.00402
        stream_129 = 0.276 * neuron_1_537 + 0.00799  # the token is " \'" (F1 0.92)
        stream_141 = -0.0852 * neuron_1_537 - 0.00454
        token_20 = 0.358 if token == 11 else 0.048 if token == 278 else 0.294 if token == 420 else -0.000706
        token_46 = 0.27 if token == 1571 else -0.208 if token in SET_12 else -0.00278
        token_56 = 0.266 if token == 280 else 0.338 if token == 313 else 0.131 if token in SET_15 else -0.123 if token in SET_16 else -0.368 if token in SET_17 else -0.185 if token in SET_18 else -0.00164
        token_72 = -0.272 if token == 69 else 0.203 if token in SET_19 else -0.114 if token in SET_20 else 0.0
        token_90 = 0.168 if token == 266 else -0.0902 if token in SET_21 else 0.000946
        token_91 = -0.191 if token == 69 else 0.218 if token == 308 else -0.275 if token == 1819 else -0.0888 if token in SET_22 else 0.127 if token in SET_23 else -0.000339
        token_122 = -0.414 if token in SET_24 else 0.185 if token in SET_25 else 0.000415
        token_123 = 0.44 if token == 385 else -0.247 if token in SET_26 else 0.00335
        token_138 = -0.156 if token in SET_27 else 0.0578
        token_164 = -0.183 if token in SET_28 else 0.08
        token_188 = 0.44 if token == 266 else 0.885 if token == 308 else 0.282 if token == 385 else 0.733 if token in SET_29 else 0.00462 if token in SET_30 else 0.106
        keys[2].append([0.925 * -0.0271 + 0.793 * token_56 + 0.841 * stream_105 - 1.27 * token_138 - 2.65 * stream_162 - 0.144, 0.178 * stream_1 + 0.652 * token_46 + 10.3 * stream_162 - 0.0593 * token_188 - 8.17, -2.18 * token_72 - 1.41 * token_122 - 1.26 * token_123 - 0.416 * stream_129 - 0.296 * stream_131 - 0.931 * stream_153 + 0.506 * token_188 + 1.19, 0.871 * stream_17 + 0.486 * stream_97 - 0.964, 0.685 * stream_1 - 0.137 * stream_17 + 0.177 * token_72 + 0.104 * stream_85 + 0.889 * stream_105 + 0.149 * stream_131 - 0.208 * token_188 + 1.44, -6.1 * stream_162 + 0.205 * token_188 + 0.53, -0.185 * stream_1 - 1.16 * token_72 + 0.0787 * stream_97 + 0.836 * stream_105 + 0.527 * token_123 - 0.711 * stream_129 - 7.01 * stream_162 + 5.51, 1.83 * token_20 - 1.1 * token_46 - 0.743 * stream_93 - 0.0533, 2.73 * token_20 - 0.772 * token_46 + 1.9 * 0.00287 - 0.0322, -0.269 * stream_1 + 1.91 * token_20 - 0.784 * token_46 - 0.111 * stream_85 - 0.298 * stream_93 - 2.16 * token_138 + 0.00565, 1.62 * token_20 - 1.95 * token_72 + 2.51 * token_91 + 0.896 * stream_105 + 1.09 * token_123 + 0.145 * stream_131 + 1.96 * token_164 + 0.192 * token_188 + 0.307, -1.2 * token_72 - 0.818 * 0.00287 - 0.0412, -1.08 * stream_53 - 1.27 * token_72 + 0.42 * stream_97 - 0.0877 * stream_105 - 1.36 * token_122 - 0.942 * stream_129 + 0.826 * stream_141 - 0.168, 0.17 * stream_1 + 1.05 * token_46 + 0.349 * token_72 + 0.412 * stream_85 - 1.48 * token_91 + 0.394 * stream_93 + 0.0203, 1.27 * token_56 + 0.344 * stream_105 + 1.18 * token_164 + 0.324, 1.55 * token_20 - 1.09 * token_90 + 1.64 * token_91 + 0.52 * 0.0492 - 0.148 * stream_93 - 1.45 * token_138 - 0.218])
        # Layer 2, head 0, beside its sink.
        weights = [exp(0.25 * (4.74 * past[0] + 32.0)) for past in keys[2]]
        total = sum(weights) + exp(-0.0986)
        moved_2_6 = sum(w * past[7] for w, past in zip(weights, keys[2])) / total  # the token is ',' (keeps 103%, F1 0.39)
        moved_2_9 = sum(w * past[8] for w, past in zip(weights, keys[2])) / total
        # Layer 2, head 4, beside its sink.
        weights = [exp(0.25 * (-10.4 * past[1] + 4.4)) for past in keys[2]]
        total = sum(weights) + exp(0.501)
        moved_2_70 = sum(w * past[9] for w, past in zip(weights, keys[2])) / total  # the token is ',' (keeps 79%, F1 0.47)
        moved_2_74 = sum(w * past[10] for w, past in zip(weights, keys[2])) / total
        attended_2_4 = sum(weights) / total
        # Layer 2, head 7, beside its sink.
        weights = [exp(0.25 * (-1.12 * past[2] + -0.604 * past[3] + 5.6 * past[4] + 8.88)) for past in keys[2]]
        total = sum(weights) + exp(-2.32)
        moved_2_113 = sum(w * past[11] for w, past in zip(weights, keys[2])) / total
        moved_2_117 = sum(w * past[12] for w, past in zip(weights, keys[2])) / total
        # Layer 2, head 11, beside its sink.
        weights = [exp(0.25 * (3.2 * past[5] + 6.07 * past[6] + 40.4)) for past in keys[2]]
        total = sum(weights) + exp(-2.88)
        moved_2_178 = sum(w * past[13] for w, past in zip(weights, keys[2])) / total  # the token is ',' (keeps 67%, F1 0.24)
        moved_2_186 = sum(w * past[14] for w, past in zip(weights, keys[2])) / total
        moved_2_188 = sum(w * past[15] for w, past in zip(weights, keys[2])) / total
        stream_1 += -0.201 * moved_2_9 + 0.179 * moved_2_113 + 0.352 * moved_2_178 + 0.0913
        stream_4 += 0.115 * moved_2_117 - 0.263
        stream_24 += -0.384 * moved_2_6 - 0.408 * moved_2_70 + 0.283 * moved_2_178 - 0.184 * moved_2_188 - 0.0965  # the token is ',' (keeps 53%, F1 0.09)
        stream_34 = 0.161 * moved_2_9 + 0.165 * moved_2_70 + 0.318 * moved_2_74 - 0.201 * moved_2_117 - 0.26 * moved_2_178 + 0.188
        stream_64 = 0.289 * moved_2_6 + 0.101 * moved_2_70 + 0.181 * moved_2_74 - 0.301 * moved_2_117 + 0.127 * attended_2_4 + 0.4
        stream_102 = -0.133 * moved_2_6 - 0.17 * moved_2_70 - 0.134 * moved_2_74 + 0.081 * moved_2_117 - 0.132 * moved_2_188 + 0.463
        stream_114 += 0.292 * moved_2_6 + 0.135 * moved_2_9 - 0.37 * moved_2_117 + 0.278 * moved_2_186 + 0.156 * moved_2_188 + 0.752
        token_20 = 0.358 if token == 11 else 0.048 if token == 278 else 0.294 if token == 420 else -0.000706
        token_56 = 0.266 if token == 280 else 0.338 if token == 313 else 0.131 if token in SET_15 else -0.123 if token in SET_16 else -0.368 if token in SET_17 else -0.185 if token in SET_18 else -0.00164
        token_92 = 0.372 if token == 308 else -0.209 if token == 644 else 0.164 if token in SET_31 else -0.00057
        token_138 = -0.156 if token in SET_27 else 0.0578
        token_188 = 0.382 if token == 266 else 0.827 if token == 308 else 0.224 if token == 385 else 0.675 if token in SET_29 else -0.0534 if token in SET_30 else 0.0483
        keys[3].append([-1.32 * token_20 + 0.451 * stream_93 + 2.78 * token_138 - 2.71, 0.426 * stream_4 - 2.8 * token_20 + 0.741 * stream_85 + 0.3 * stream_102 + 0.89 * -0.0795 + 0.102, 0.732 * stream_1 + 0.297 * stream_4 - 2.1 * token_20 + 0.497 * stream_102 - 0.794 * stream_114 + 0.212 * token_188 - 2.22, -0.195 * stream_1 + 0.21 * stream_34 + 0.949 * token_56 + 0.259 * stream_100 - 0.145 * token_188 + 8.18, 0.122 * stream_1 + 0.169 * stream_24 - 0.143 * stream_34 + 0.254 * stream_85 + 0.332 * stream_102 - 10.3, 0.764 * 0.12 + 0.358 * stream_93 + 2.66 * token_138 - 0.291, 4.42 * token_20 - 0.276 * stream_24 + 0.823 * token_56 - 1.22 * stream_85 + 0.238 * stream_100 + 0.855 * stream_134 - 0.148 * token_188 + 0.109, -2.99 * token_20 - 0.144 * stream_34 + 1.18 * token_138 - 0.308])
        if end < len(tokens):
            continue
        # Layer 3, head 1, beside its sink.
        weights = [exp(0.25 * ((0.381 * stream_4 - 0.747 * stream_53 - 0.483 * stream_64 + 0.198 * stream_89 - 1.08 * token_92 + 0.302 * stream_102 - 0.433) * past[1] + (0.512 * stream_1 + 0.532 * stream_4 - 0.132 * stream_64 - 3.52 * token_92 + 0.396 * stream_102 - 0.647 * stream_114 - 0.295 * token_188 - 0.38) * past[2] + -0.953 * past[0] + 4.26 * past[3] + -4.16 * past[4] + -0.149)) for past in keys[3]]
        total = sum(weights) + exp(-4.1)
        moved_3_21 = sum(w * past[5] for w, past in zip(weights, keys[3])) / total
        moved_3_23 = sum(w * past[6] for w, past in zip(weights, keys[3])) / total  # the token is ',' (keeps 100%, F1 1.00)
        moved_3_26 = sum(w * past[7] for w, past in zip(weights, keys[3])) / total  # the token is ',' (keeps 101%, F1 0.12)
        stream_134 += 0.183 * moved_3_21 - 0.428 * moved_3_23 + 0.281 * moved_3_26 - 0.31
        # Layer 3, neurons.
        neuron_3_680 = max(0.0, -1.42 * stream_134 - 1.45)
        stream_53 += -0.501 * neuron_3_680 + 0.181
        stream_79 = 0.295 * neuron_3_680 + 0.65
        stream_94 = 0.246 * neuron_3_680 + 1.38
    return {
        595: -2.03 * stream_53 + 0.582 * stream_94 - 1.18 * stream_134 - 15.5,  #  en
        1667: -0.428 * stream_79 + 1.6 * stream_134 - 11.5,  #  range
    }
