# The circuit for with_as, simplified: right on 2,193 of 2,244 prompts, where the circuit itself is on 2,244;
# mean pairwise loss 0.133, of the circuit itself 0.181. Tokens are ids; comments have their texts.
from math import exp, erf, sqrt

SET_1 = {81, 280, 443, 518}  # 'r', ' =', "('", '("'
SET_2 = {73, 80, 317, 443, 470, 481, 774, 965, 1027, 1365, 1571, 1921}  # 'j', 'q', 'ot', "('", 'file', 'line', 'vent', 'own', 'ity', ' open' and 2 more
SET_3 = {69, 373, 547}  # 'f', 'name', 'int'
SET_4 = {67, 68, 87, 88}  # 'd', 'e', 'x', 'y'
SET_5 = {72, 73, 84, 85, 263, 327, 450}  # 'i', 'j', 'u', 'v', 're', 'co', 'ent'
SET_6 = {64, 65}  # 'a', 'b'
SET_7 = {67, 74}  # 'd', 'k'
SET_8 = {68, 87}  # 'e', 'x'
SET_9 = {76, 82}  # 'm', 's'
SET_10 = {81, 85}  # 'r', 'v'
SET_11 = {83, 272}  # 't', 'le'
SET_12 = {66, 72, 86, 547}  # 'c', 'i', 'w', 'int'
SET_13 = {87, 272, 360}  # 'x', 'le', 'un'
SET_14 = {67, 83, 547, 1365}  # 'd', 't', 'int', ' open'
SET_15 = {275, 280, 292, 443, 504, 518, 557, 644, 676, 838, 905, 965, 1237, 1365, 1581}  # 'st', ' =', 'it', "('", 'art', '("', 'age', 'ok', 'ord', 'bo' and 5 more
SET_16 = {65, 70, 73, 76, 81, 85, 87, 272, 281, 327, 336, 504, 666, 676, 1122, 1280, 1285, 1365, 1811, 1921}  # 'b', 'g', 'j', 'm', 'r', 'v', 'x', 'le', 'me', 'co' and 10 more
SET_17 = {292, 676, 838, 965, 1285}  # 'it', 'ord', 'bo', 'own', 'with'
SET_18 = {267, 504, 905, 1027}  # 'er', 'art', 'dent', 'ity'
SET_19 = {74, 285, 292, 1280, 1665}  # 'k', 'al', 'it', 'ask', 'oken'
SET_20 = {644, 915, 1285, 1365}  # 'ok', 'ste', 'with', ' open'
SET_21 = {80, 84, 87, 263, 267, 285, 305, 313, 353, 406, 426, 484, 504, 507, 528, 543, 666, 670, 676, 726, 751, 834, 843, 905, 1002, 1027, 1209, 1237, 1280, 1431, 1581, 1601, 1619, 1811, 1912}  # 'q', 'u', 'x', 're', 'er', 'al', 'ce', 'ame', 'pe', 'ter' and 25 more
SET_22 = {77, 81, 83, 1285}  # 'n', 'r', 't', 'with'
SET_23 = {74, 292, 313, 327, 504, 575, 682, 1002, 1212, 1241, 1431, 1581, 1912}  # 'k', 'it', 'ame', 'co', 'art', 'am', '.t', 'roup', 'item', 'word' and 3 more
SET_24 = {82, 280}  # 's', ' ='
SET_25 = {65, 67, 68, 69, 70, 72, 73, 74, 76, 77, 79, 80, 81, 83, 84, 85, 86, 88, 89, 263, 267, 292, 327, 470}  # 'b', 'd', 'e', 'f', 'g', 'i', 'j', 'k', 'm', 'n' and 14 more
SET_26 = {68, 82, 275, 905, 1285}  # 'e', 's', 'st', 'dent', 'with'
SET_27 = {76, 81, 83, 84, 263, 280, 399, 518, 557, 666, 670, 676, 834, 1601, 1921}  # 'm', 'r', 't', 'u', 're', ' =', 'ri', '("', 'age', 'unt' and 5 more
SET_28 = {327, 373}  # 'co', 'name'
SET_29 = {80, 426, 450}  # 'q', 'value', 'ent'
SET_30 = {82, 978, 1365}  # 's', 'ha', ' open'
SET_31 = {64, 84, 89, 305, 360}  # 'a', 'u', 'z', 'ce', 'un'
SET_32 = {67, 267, 557, 965, 1601}  # 'd', 'er', 'age', 'own', 'cord'
SET_33 = {89, 267, 275, 406, 443, 518, 826, 905, 915}  # 'z', 'er', 'st', 'ter', "('", '("', 'pro', 'dent', 'ste'
SET_34 = {65, 70, 73, 76, 81, 85, 87, 272, 281, 327, 336, 504, 666, 676, 1122, 1280, 1365, 1811, 1921}  # 'b', 'g', 'j', 'm', 'r', 'v', 'x', 'le', 'me', 'co' and 9 more
SET_35 = {76, 443}  # 'm', "('"
SET_36 = {70, 272, 280, 313, 905}  # 'g', 'le', ' =', 'ame', 'dent'
SET_37 = {77, 82, 86, 267, 843}  # 'n', 's', 'w', 'er', 'eld'
SET_38 = {66, 68, 72, 79, 83, 87, 88, 285, 399, 481, 507, 726, 1027, 1209, 1285, 1431, 1581, 1665}  # 'c', 'e', 'i', 'p', 't', 'x', 'y', 'al', 'ri', 'line' and 8 more
SET_39 = {65, 83, 86, 285, 353, 399, 406, 462, 666, 1285, 1665}  # 'b', 't', 'w', 'al', 'pe', 'ri', 'ter', 'te', 'unt', 'with' and 1 more
SET_40 = {70, 292, 484}  # 'g', 'it', 'ry'
SET_41 = {65, 66, 81, 87}  # 'b', 'c', 'r', 'x'
SET_42 = {67, 79, 82, 470, 682, 1431}  # 'd', 'p', 's', 'file', '.t', 'uct'
SET_43 = {285, 547, 1002, 1027, 1212, 1619}  # 'al', 'int', 'roup', 'ity', 'item', 'mber'
SET_44 = {67, 263, 267, 272, 275, 285, 305, 360, 543, 978}  # 'd', 're', 'er', 'le', 'st', 'al', 'ce', 'un', 'able', 'ha'
SET_45 = {280, 373, 470, 774, 843, 1008, 1212, 1431, 1571, 1665}  # ' =', 'name', 'file', 'vent', 'eld', 'path', 'item', 'uct', 'box', 'oken'
SET_46 = {58, 594}  # '[', 'out'
SET_47 = {75, 265}  # 'l', 'on'
SET_48 = {77, 590}  # 'n', ' from'
SET_49 = {81, 1130}  # 'r', 'ameter'
SET_50 = {286, 290}  # ' f', ' re'
SET_51 = {313, 546}  # 'ame', ' ma'
SET_52 = {318, 574}  # ' de', ' cont'
SET_53 = {378, 1358}  # ' st', '().'
SET_54 = {395, 1212}  # '.\\n', 'item'
SET_55 = {537, 1581}  # ' le', 'message'
SET_56 = {547, 1811}  # 'int', 'user'
SET_57 = {633, 1305}  # 'AR', '="'
SET_58 = {647, 1905}  # 'pre', ' represent'
SET_59 = {705, 929}  # ' {', 'from'
SET_60 = {715, 1936}  # 'mo', '_ext'
SET_61 = {744, 899}  # '.f', 'ener'
SET_62 = {1241, 1431}  # 'word', 'uct'
SET_63 = {1440, 1988}  # '[-', 'abc'
SET_64 = {7, 523, 1623}  # '(', ' P', '(('
SET_65 = {220, 392, 847}  # ' ', 'ch', 'uple'
SET_66 = {292, 504, 1706}  # 'it', 'art', ').\\n'
SET_67 = {301, 1285, 1932}  # 'ing', 'with', '(other'
SET_68 = {327, 613, 725}  # 'co', ' wh', 'ES'
SET_69 = {492, 1188, 1652}  # 'ly', ' sy', '(obj'
SET_70 = {736, 1002, 1912}  # 'lif', 'roup', 'bel'
SET_71 = {74, 709, 1397, 1689, 1836}  # 'k', ' path', 'OL', '".', ' man'
SET_72 = {364, 374, 447, 836, 1922}  # '(self', ' for', 'gs', ' isinstance', '(ex'
SET_73 = {617, 1047, 1068, 1294, 1418}  # '=None', ').', ' k', "'.", ' mod'
SET_74 = {68, 72, 77, 81, 84}  # 'e', 'i', 'n', 'r', 'u'
SET_75 = {64, 67, 70, 79, 87, 317}  # 'a', 'd', 'g', 'p', 'x', 'ot'


def gelu(x):
    return 0.5 * x * (1 + erf(x / sqrt(2)))


def answer(tokens):
    keys = {2: []}
    for end in range(1, len(tokens) + 1):
        seen, token = tokens[:end], tokens[end - 1]
        stream_15 = 0.22 if token in SET_1 else -0.0069
        stream_28 = 0.19 if token in SET_2 else -0.0087
        stream_81 = -0.17 if token in SET_3 else 0.059 if token in SET_4 else 0.13 if token in SET_5 else 0.0025
        stream_114 = 0.031 if token == 77 else 0.23 if token in SET_6 else 0.14 if token in SET_7 else 0.071 if token in SET_8 else 0.081 if token in SET_9 else 0.21 if token in SET_10 else 0.19 if token in SET_11 else 0.16 if token in SET_12 else 0.0
        stream_145 = 0.087 if token in SET_13 else -0.0076
        stream_182 = 0.15 if token in SET_14 else 0.0023
        # Layer 0, head 11, beside its sink.
        weights = [exp(1.675)] * len(seen)
        total = sum(weights) + 1.0
        moved_0_180 = sum(w * (7.3 if t == 1285 else 3.1 if t in SET_15 else 1.4) for w, t in zip(weights, seen)) / total
        stream_66 = 0.32 * moved_0_180 - 2.0
        stream_89 = -0.22 * moved_0_180 - 1.3
        # Layer 0, neurons.
        token_32 = -0.28 if token == 280 else -0.0037
        token_35 = 0.12 if token in SET_16 else -0.046
        token_41 = 0.18 if token in SET_17 else 0.0076
        token_47 = -0.44 if token == 399 else -0.14 if token == 518 else -0.27 if token == 1285 else 0.16 if token in SET_18 else 0.21 if token in SET_19 else 0.0026
        token_71 = -0.34 if token in SET_20 else -0.00021
        token_139 = 0.34 if token == 280 else -0.037
        token_141 = -0.27 if token in SET_21 else -0.0018
        token_142 = -0.38 if token == 68 else 0.31 if token == 1285 else -0.017
        token_143 = -0.11 if token in SET_22 else 0.12 if token in SET_23 else 0.0004
        token_174 = -0.13 if token in SET_24 else 0.21 if token in SET_25 else 0.00032
        neuron_0_163 = gelu(stream_66 + 3.0 * token_142 - 0.48)
        neuron_0_185 = gelu(1.6 * token_35 - 2.2 * token_47 + 0.82 * stream_66 + 2.8 * token_142 - 1.6 * token_143 - 0.37)
        neuron_0_235 = gelu(-4.0 * stream_15 - 0.67 * token_47 + 0.85 * stream_66 - 0.26 * stream_89 - 0.78 * -0.0046 + 3.0 * token_141 + 0.83 * token_142 - token_143 - 0.3)
        neuron_0_299 = gelu(1.3 * token_35 - 1.8 * token_47 + 0.88 * stream_66 - 1.9 * stream_114 + 2.9 * token_142 - 1.4 * token_143 - 0.22)
        neuron_0_588 = gelu(-2.4 * stream_15 + 4.7 * token_32 + 0.91 * token_35 + 2.0 * token_41 - 0.49 * stream_89 - 1.6 * token_139 + 3.6 * token_174 + 1.2)
        neuron_0_641 = gelu(0.66 * stream_66 - 1.4 * token_71 + 2.3 * token_142 - 0.013)
        stream_15 += -0.19 * neuron_0_185 - 0.37 * neuron_0_299 + 0.041
        stream_40 = -0.31 * neuron_0_185 - 0.28 * neuron_0_299 - 0.014
        stream_105 = -0.34 * neuron_0_235 - 0.71 * neuron_0_588 - 0.57
        stream_121 = 0.29 * neuron_0_163 + 0.4 * neuron_0_235 + 0.53 * neuron_0_641 + 0.1
        stream_177 = -0.22 * neuron_0_185 - 0.31 * neuron_0_299 + 0.0048
        token_1 = -0.22 if token == 74 else 0.27 if token in SET_26 else 0.11 if token in SET_27 else -0.014
        token_11 = -0.039 if token == 74 else 0.35 if token == 280 else -0.33 if token in SET_28 else -0.16 if token in SET_29 else 0.16 if token in SET_30 else 0.26 if token in SET_31 else 0.061 if token in SET_32 else -9.1e-05
        token_35 = 0.36 if token == 1285 else -0.18 if token in SET_33 else 0.11 if token in SET_34 else -0.012
        token_47 = -0.44 if token == 399 else -0.14 if token == 518 else -0.27 if token == 1285 else 0.16 if token in SET_18 else 0.21 if token in SET_19 else 0.0026
        token_53 = 0.2 if token == 280 else -0.19 if token in SET_35 else -0.0016
        token_56 = 0.26 if token in SET_36 else -0.33 if token in SET_37 else -0.14 if token in SET_38 else 0.01
        token_71 = -0.37 if token in SET_20 else -0.032
        token_97 = -0.12 if token in SET_39 else 0.014
        token_134 = -0.09 if token == 302 else -0.46 if token == 360 else 0.26 if token == 1921 else -0.28 if token in SET_40 else 0.064 if token in SET_41 else 0.18 if token in SET_42 else -0.17 if token in SET_43 else 0.00084
        token_138 = 0.23 if token in SET_44 else -0.15 if token in SET_45 else 0.0014
        token_143 = -0.075 if token == 25 else 0.053 if token == 43 else 0.012 if token == 46 else -0.019 if token == 71 else -0.092 if token == 83 else 0.065 if token == 262 else -0.48 if token == 314 else 0.079 if token == 324 else -0.1 if token == 334 else 0.017 if token == 343 else 0.04 if token == 360 else -0.2 if token == 516 else -0.26 if token == 564 else 0.23 if token == 575 else -0.22 if token == 674 else 0.1 if token == 682 else -0.11 if token == 724 else 0.44 if token == 732 else 0.41 if token == 760 else 0.37 if token == 789 else -0.096 if token == 887 else 0.059 if token == 902 else 0.31 if token == 936 else -0.089 if token == 952 else 0.023 if token == 1044 else -0.095 if token == 1069 else -0.28 if token == 1140 else -0.59 if token == 1170 else -0.091 if token == 1236 else 0.33 if token == 1493 else -0.31 if token == 1654 else -0.15 if token == 1677 else -0.044 if token == 1686 else -0.078 if token == 1835 else 0.16 if token == 1841 else -0.059 if token == 1865 else -0.25 if token == 1874 else -0.27 if token == 1919 else -0.064 if token == 1945 else 0.077 if token == 1958 else -0.5 if token == 2027 else -0.21 if token in SET_46 else -0.028 if token in SET_47 else -0.19 if token in SET_48 else -0.23 if token in SET_49 else 0.078 if token in SET_50 else 0.14 if token in SET_51 else 0.34 if token in SET_52 else 0.11 if token in SET_53 else 0.17 if token in SET_54 else 0.2 if token in SET_55 else 0.03 if token in SET_56 else 0.18 if token in SET_57 else 0.26 if token in SET_58 else -0.16 if token in SET_59 else 0.36 if token in SET_60 else 0.15 if token in SET_61 else 0.12 if token in SET_62 else -0.44 if token in SET_63 else -0.14 if token in SET_64 else -0.24 if token in SET_65 else 0.21 if token in SET_66 else -0.12 if token in SET_67 else 0.25 if token in SET_68 else -0.17 if token in SET_69 else 0.13 if token in SET_70 else 0.19 if token in SET_71 else -0.13 if token in SET_72 else 0.28 if token in SET_73 else 0.0
        token_186 = -0.27 if token == 1285 else 0.25 if token in SET_74 else 0.07 if token in SET_75 else -0.00076
        keys[2].append([1.4 * token_56 + 2.9, 0.34 * token_11 + 0.75 * token_56 + 0.8 * stream_105 - 1.2 * token_138 + 1.5, -0.28, 1.5 * token_11 + 0.34 * stream_15 - 1.7 * token_35 + 0.23 * stream_40 + 1.7 * token_56 - 0.16 * stream_121 + 0.23 * stream_177 - 5.2, 2.1 * token_11 + 2.3 * token_53 + 0.58 * stream_105 - 0.12, -1.3 * token_11 - 0.77 * token_56 + 0.0052, -token_53 + 2.1 * 0.055 - 0.1, -2.2 * -0.1 - 0.014, 0.84, -2.2 * token_47 - token_53 + 0.12, --0.1 + 0.3, 0.18 * stream_40 + 1.4 * stream_114 - 0.085, 0.29 * token_35 - 0.92 * stream_114 - 1.7 * token_134 - 0.64 * token_143 - 1.5 * token_186 + 0.14, -0.14 * stream_40 - 2.4 * token_47 - 0.22 * token_71 - 0.59 * token_97 - 0.29 * stream_105 + 0.24 * stream_121 - 0.73 * token_143 - 1.6 * token_186 - 0.0095, -0.6 * token_1 + 1.5 * token_47 + 0.25 * token_71 - 0.19 * stream_121 + 0.017])
        if end < len(tokens):
            continue
        # Layer 2, head 0, beside its sink.
        weights = [exp(0.25 * (0.32 * past[0] + 4.7 * past[1] + 31.0)) for past in keys[2]]
        total = sum(weights) + exp(-0.099)
        moved_2_10 = sum(w * past[4] for w, past in zip(weights, keys[2])) / total
        moved_2_13 = sum(w * past[5] for w, past in zip(weights, keys[2])) / total
        moved_2_14 = sum(w * past[6] for w, past in zip(weights, keys[2])) / total
        # Layer 2, head 2, beside its sink.
        weights = [exp(8.5)] * len(keys[2])
        total = sum(weights) + exp(-2.0)
        moved_2_36 = sum(w * past[7] for w, past in zip(weights, keys[2])) / total
        # Layer 2, head 4, beside its sink.
        weights = [exp(40.0)] * len(keys[2])
        total = sum(weights) + exp(0.5)
        moved_2_75 = sum(w * past[8] for w, past in zip(weights, keys[2])) / total
        # Layer 2, head 7, beside its sink.
        weights = [exp(0.25 * (5.3 * past[2] + 11.0)) for past in keys[2]]
        total = sum(weights) + exp(-2.3)
        moved_2_117 = sum(w * past[9] for w, past in zip(weights, keys[2])) / total
        # Layer 2, head 8, beside its sink.
        weights = [exp(8.5)] * len(keys[2])
        total = sum(weights) + exp(-3.0)
        moved_2_142 = sum(w * past[10] for w, past in zip(weights, keys[2])) / total
        # Layer 2, head 9, beside its sink.
        weights = [exp(0.25 * (-8.9 * past[3] + 9.0)) for past in keys[2]]
        total = sum(weights) + exp(-2.1)
        moved_2_144 = sum(w * past[11] for w, past in zip(weights, keys[2])) / total
        moved_2_148 = sum(w * past[12] for w, past in zip(weights, keys[2])) / total
        moved_2_150 = sum(w * past[13] for w, past in zip(weights, keys[2])) / total
        moved_2_154 = sum(w * past[14] for w, past in zip(weights, keys[2])) / total
        stream_12 = 0.18 * moved_2_148 + 0.13 * moved_2_150 - 0.24 * moved_2_154 + 0.17
        stream_28 += -0.37 * moved_2_144 + 0.12 * moved_2_148 - 0.13 * moved_2_154 + 0.48
        stream_81 += -0.24 * moved_2_154 + 0.07
        stream_82 = -0.23 * moved_2_14 - 0.6 * moved_2_36 - 0.18 * moved_2_75 - 0.26 * moved_2_117 - 0.36 * moved_2_142 - 0.36 * moved_2_150 + 0.12 * moved_2_154 - 0.094
        stream_114 += -0.37 * moved_2_150 + 0.17 * moved_2_154 + 0.26
        stream_145 += 0.27 * moved_2_148 + 0.049
        stream_152 = 0.16 * moved_2_150 - 0.6
        stream_171 = -0.22 * moved_2_10 + 0.29 * moved_2_14 + 0.25 * moved_2_117 - 0.22 * moved_2_144 + 0.11 * moved_2_150 + 0.36
        stream_182 += 0.5 * moved_2_10 - 0.4 * moved_2_13 - 0.35 * moved_2_148 - 0.13 * moved_2_150 + 0.099 * moved_2_154 + 0.15
        # Layer 3, neurons.
        neuron_3_1 = gelu(-0.94 * stream_82 - 1.2 * stream_114 + 0.38 * stream_152 + 0.98 * stream_171 - 2.9)
        neuron_3_17 = gelu(-0.61 * stream_114 - 0.89 * stream_182 - 0.22)
        neuron_3_74 = gelu(0.43 * stream_171 - 0.55)
        neuron_3_114 = gelu(0.65 * stream_12 - 0.21 * stream_82 - 0.16 * stream_114 - 0.54)
        neuron_3_467 = gelu(0.63 * stream_12 + 0.62 * stream_152 + 0.21)
        stream_49 = -0.43 * neuron_3_114 - 0.093
        stream_81 += 0.62 * neuron_3_74 + 0.27
        stream_123 = -0.29 * neuron_3_1 - 0.18 * neuron_3_467 - 0.19
        stream_149 = 0.45 * neuron_3_1 + 0.15 * neuron_3_17 + 0.099
        stream_177 += 0.2 * neuron_3_17 + 0.25 * neuron_3_467 + 0.0093
    return {
        604: -0.44 * stream_28 + 0.76 * stream_49 + 1.2 * stream_123 - 0.53 * stream_145 - 1.5 * stream_149 - 9.6,  # ')\n
        722: -0.5 * stream_28 + 0.65 * stream_49 - 0.84 * stream_81 - 0.068 * stream_114 + 1.3 * stream_123 - 0.72 * stream_145 - 1.3 * stream_149 + 0.33 * stream_177 - 14.0,  # ")\n
        872: 0.44 * stream_171 + 0.48 * stream_177 - 1.2 * stream_182 - 13.0,  # ')
        1883: -0.88 * stream_114 + 0.36 * stream_123 + 0.73 * stream_177 - 0.95 * stream_182 - 16.0,  # ")
    }
