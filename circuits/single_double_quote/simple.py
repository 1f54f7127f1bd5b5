# The circuit for single_double_quote, simplified: right on 145,350 of 145,350 prompts, where the circuit itself is on 145
# mean pairwise loss 0.068, of the circuit itself 0.059. Tokens are ids; comments have their texts.
from math import exp

SET_1 = {15, 82, 805, 1571}  # '0', 's', 'pr', 'box'
SET_2 = {16, 69, 518, 547, 1431}  # '1', 'f', '("', 'int', 'uct'
SET_3 = {443, 518}  # "('", '("'
SET_4 = {16, 198, 280}  # '1', '\\n', ' ='
SET_5 = {8, 36}  # ')', 'E'
SET_6 = {9, 1774}  # '*', ' hasattr'
SET_7 = {15, 866}  # '0', '(\\n'
SET_8 = {19, 342}  # '4', 'ge'
SET_9 = {27, 198}  # '<', '\\n'
SET_10 = {60, 1690}  # ']', ' field'
SET_11 = {81, 1450}  # 'r', ' item'
SET_12 = {282, 901}  # ' #', "'s"
SET_13 = {301, 1396}  # 'ing', 'xC'
SET_14 = {330, 1101}  # 'ed', '.g'
SET_15 = {391, 542}  # 'od', 'ist'
SET_16 = {427, 629}  # 'ont', ' he'
SET_17 = {442, 803}  # 'ig', 'lock'
SET_18 = {456, 793}  # ' ra', 'ty'
SET_19 = {529, 1894}  # ' lo', ' extra'
SET_20 = {543, 1056}  # 'able', 'map'
SET_21 = {676, 1580}  # 'ord', '_value'
SET_22 = {686, 1094}  # 'cl', ' number'
SET_23 = {751, 896}  # 'ber', ' pass'
SET_24 = {772, 844}  # 'attr', '_o'
SET_25 = {789, 943}  # 'comp', ' mo'
SET_26 = {807, 1835}  # '(s', '(a'
SET_27 = {1159, 1581}  # ' break', 'message'
SET_28 = {1521, 1769}  # ' write', ' ("'
SET_29 = {14, 344, 537}  # '/', ' "', ' le'
SET_30 = {18, 956, 1102}  # '3', 'coder', 'mb'
SET_31 = {20, 85, 89}  # '5', 'v', 'z'
SET_32 = {61, 392, 1958}  # '^', 'ch', '.r'
SET_33 = {63, 1082, 2020}  # '`', ' msg', " '*"
SET_34 = {67, 327, 1945}  # 'd', 'co', '(x'
SET_35 = {272, 518, 692}  # 'le', '("', ' y'
SET_36 = {277, 568, 719}  # 'at', 'ew', '.st'
SET_37 = {299, 820, 1964}  # ' s', ' att', 'den'
SET_38 = {519, 591, 678}  # 'sp', ' ch', 'ca'
SET_39 = {1, 84, 511, 1839}  # '"', 'u', ' E', '."\\n'
SET_40 = {70, 449, 466, 1439}  # 'g', '()\\n', ' file', ' OS'
SET_41 = {386, 394, 1837, 2008}  # ' not', 'ort', '])', ' either'
SET_42 = {933, 1069, 1908, 1944}  # ' `', ' **', '200', '(r'
SET_43 = {292, 305, 430, 454, 1921}  # 'it', 'ce', 'ke', 'ation', 'color'
SET_44 = {536, 594, 766, 1591, 1787}  # 'ser', 'out', 'UT', 'text', 'ute'
SET_45 = {741, 797, 1362, 1392, 2001}  # ' new', '.s', 'kip', ' stack', '_ch'
SET_46 = {407, 1174, 1426, 1549, 1789, 1962}  # ' se', 'ong', 'lect', 'new', '].', '_line'
SET_47 = {429, 764, 1251, 1300, 1312, 1597, 1638}  # 'all', ' l', ' node', '_se', '.se', ' next', 'Con'
SET_48 = {79, 307, 346, 388, 470, 541, 1513, 1547}  # 'p', ' e', 'ad', ' """', 'file', '.__', " ''", 'loat'
SET_49 = {308, 383, 612, 640, 664, 792, 826, 1788}  # ' in', 'IT', '_s', ' pro', 'low', ' bu', 'pro', ' entry'
SET_50 = {47, 963, 1009, 1143, 1215, 1367, 1496, 1512, 1716}  # 'P', 'heck', ' end', 'header', '.is', 'RAC', '],', ' parameter', 'ilter'
SET_51 = {15, 16, 74, 443, 557, 1571}  # '0', '1', 'k', "('", 'age', 'box'
SET_52 = {79, 286, 299, 313, 443, 528, 588, 660, 666, 751, 843, 1581, 1792}  # 'p', ' f', ' s', 'ame', "('", 'key', 'error', 'red', 'unt', 'ber' and 3 more
SET_53 = {267, 275, 284, 443, 518, 545, 826}  # 'er', 'st', ' c', "('", '("', ' al', 'pro'
SET_54 = {17, 518}  # '2', '("'
SET_55 = {74, 267, 285, 292}  # 'k', 'er', 'al', 'it'
SET_56 = {322, 443, 567}  # 'ut', "('", 'so'
SET_57 = {83, 443, 518}  # 't', "('", '("'
SET_58 = {198, 843}  # '\\n', 'eld'
SET_59 = {70, 385, 443, 518, 543}  # 'g', 'is', "('", '("', 'able'
SET_60 = {69, 70, 198, 278, 327, 353, 629, 843, 978}  # 'f', 'g', '\\n', 'he', 'co', 'pe', ' he', 'eld', 'ha'
SET_61 = {58, 1080}  # '[', ' Ex'
SET_62 = {64, 1505}  # 'a', '=self'
SET_63 = {65, 928}  # 'b', 'type'
SET_64 = {267, 1194}  # 'er', 'ample'
SET_65 = {311, 1624}  # ' if', '.split'
SET_66 = {324, 505}  # 'ro', 'um'
SET_67 = {519, 610}  # 'sp', ' try'
SET_68 = {595, 1151}  # ' en', ' while'
SET_69 = {674, 952}  # ' type', ' :'
SET_70 = {1114, 1175}  # '                                ', '.co'
SET_71 = {1399, 1932}  # '.read', '(other'
SET_72 = {12, 44, 345}  # '-', 'M', ' S'
SET_73 = {316, 319, 621}  # ' -', ' is', ' <'
SET_74 = {384, 833, 1047}  # ' and', 'if', ').'
SET_75 = {520, 699, 780}  # ' ==', ' len', '(p'
SET_76 = {443, 553, 755, 778}  # "('", ' """\\n', ' elif', 'len'
SET_77 = {588, 858, 1052, 1098, 1792}  # 'error', ' error', ' one', ' start', 'start'
SET_78 = {67, 71, 74, 277, 331, 360}  # 'd', 'h', 'k', 'at', 'lo', 'un'
SET_79 = {67, 71, 331}  # 'd', 'h', 'lo'
SET_80 = {74, 277, 360}  # 'k', 'at', 'un'
SET_81 = {351, 850, 1052}  # 'one', 'no', ' one'
SET_82 = {588, 858, 1132, 1792}  # 'error', ' error', ' up', 'start'


def answer(tokens):
    keys = {2: []}
    for end in range(1, len(tokens) + 1):
        token = tokens[end - 1]
        stream_105 = -0.091 if token in SET_1 else 0.0015
        stream_158 = 0.21 if token == 360 else -0.1 if token in SET_2 else 0.0
        # Layer 0, neurons.
        token_15 = 0.28 if token in SET_3 else 0.16 if token in SET_4 else -0.0018
        neuron_0_588 = max(0.0, -2.5 * token_15 + 1.2)
        stream_105 += -0.71 * neuron_0_588 - 0.56
        token_0 = -0.085 if token == 25 else 0.025 if token == 37 else -0.27 if token == 68 else -0.012 if token == 75 else -0.02 if token == 80 else -0.31 if token == 87 else -0.47 if token == 88 else 0.018 if token == 284 else 0.029 if token == 288 else -0.013 if token == 289 else -0.024 if token == 297 else 0.075 if token == 302 else -0.051 if token == 306 else -0.43 if token == 352 else 0.095 if token == 361 else -0.022 if token == 363 else 0.078 if token == 378 else -0.0065 if token == 403 else -0.099 if token == 415 else 0.034 if token == 452 else 0.066 if token == 476 else -0.035 if token == 528 else -0.053 if token == 532 else -0.067 if token == 547 else -0.35 if token == 575 else 0.2 if token == 584 else 0.02 if token == 653 else -0.04 if token == 660 else 0.23 if token == 718 else 0.033 if token == 742 else 0.098 if token == 880 else -0.25 if token == 916 else 0.055 if token == 973 else 0.38 if token == 1017 else 0.037 if token == 1053 else -0.28 if token == 1212 else -0.061 if token == 1228 else -0.00035 if token == 1250 else -0.065 if token == 1260 else -0.097 if token == 1280 else 0.31 if token == 1281 else -0.41 if token == 1305 else -0.44 if token == 1389 else -0.38 if token == 1401 else -0.066 if token == 1403 else 0.069 if token == 1445 else 0.48 if token == 1605 else -0.072 if token == 1662 else 0.72 if token == 1666 else 0.021 if token == 1702 else 0.1 if token == 1704 else 0.13 if token == 1709 else -0.054 if token == 1753 else 0.022 if token == 1754 else 0.43 if token == 1765 else 0.34 if token == 1836 else -0.36 if token == 1860 else 0.081 if token == 1868 else 0.058 if token == 1953 else 0.04 if token in SET_5 else -0.15 if token in SET_6 else -0.074 if token in SET_7 else -0.068 if token in SET_8 else -0.17 if token in SET_9 else 0.26 if token in SET_10 else -0.26 if token in SET_11 else -0.21 if token in SET_12 else -0.092 if token in SET_13 else -0.16 if token in SET_14 else 0.043 if token in SET_15 else 0.18 if token in SET_16 else 0.067 if token in SET_17 else 0.36 if token in SET_18 else 0.21 if token in SET_19 else 0.041 if token in SET_20 else -0.052 if token in SET_21 else 0.29 if token in SET_22 else 0.33 if token in SET_23 else 0.046 if token in SET_24 else 0.53 if token in SET_25 else 0.15 if token in SET_26 else 0.37 if token in SET_27 else -0.32 if token in SET_28 else -0.22 if token in SET_29 else -0.12 if token in SET_30 else -0.095 if token in SET_31 else -0.1 if token in SET_32 else -0.19 if token in SET_33 else -0.24 if token in SET_34 else -0.29 if token in SET_35 else 0.17 if token in SET_36 else 0.22 if token in SET_37 else 0.3 if token in SET_38 else -0.14 if token in SET_39 else -0.11 if token in SET_40 else 0.25 if token in SET_41 else -0.18 if token in SET_42 else -0.13 if token in SET_43 else 0.14 if token in SET_44 else 0.19 if token in SET_45 else 0.28 if token in SET_46 else 0.16 if token in SET_47 else -0.2 if token in SET_48 else 0.12 if token in SET_49 else 0.11 if token in SET_50 else 0.0
        token_5 = 0.2 if token in SET_51 else -0.0061
        token_24 = 0.18 if token in SET_52 else -9.2e-05
        token_35 = -0.19 if token in SET_53 else 0.00086
        token_47 = -0.15 if token in SET_54 else 0.22 if token in SET_55 else 0.0094
        token_53 = -0.23 if token in SET_56 else 0.017
        token_126 = 0.39 if token in SET_57 else 0.016
        token_136 = -0.32 if token in SET_58 else 0.15 if token in SET_59 else -0.0035
        token_148 = -0.1 if token in SET_60 else 0.0099
        token_189 = -0.38 if token == 32 else -0.23 if token == 35 else -0.29 if token == 46 else -0.15 if token == 51 else 0.0064 if token == 62 else -0.053 if token == 78 else -0.13 if token == 82 else 0.012 if token == 83 else -0.072 if token == 198 else -0.0061 if token == 261 else 0.0015 if token == 269 else -0.083 if token == 280 else -0.57 if token == 298 else 0.072 if token == 308 else -0.064 if token == 336 else 0.053 if token == 364 else -0.12 if token == 392 else -0.27 if token == 397 else 0.055 if token == 451 else -0.37 if token == 478 else 0.15 if token == 482 else 0.21 if token == 518 else 0.14 if token == 561 else 0.078 if token == 594 else 0.23 if token == 632 else -0.26 if token == 634 else -0.11 if token == 716 else 0.24 if token == 736 else -0.04 if token == 759 else 0.085 if token == 783 else -0.28 if token == 793 else -0.08 if token == 988 else -0.33 if token == 1069 else 0.27 if token == 1413 else -0.42 if token == 1511 else -0.098 if token == 1677 else 0.19 if token == 1754 else 0.29 if token == 1919 else 0.31 if token == 1922 else -0.48 if token == 1977 else -0.073 if token in SET_61 else -0.16 if token in SET_62 else 0.018 if token in SET_63 else -0.14 if token in SET_64 else 0.22 if token in SET_65 else -0.22 if token in SET_66 else 0.3 if token in SET_67 else 0.39 if token in SET_68 else -0.18 if token in SET_69 else 0.33 if token in SET_70 else 0.25 if token in SET_71 else -0.21 if token in SET_72 else 0.18 if token in SET_73 else 0.12 if token in SET_74 else 0.11 if token in SET_75 else 0.2 if token in SET_76 else 0.0
        keys[2].append([1.1 * token_0 - 2.7 * token_24 + 2.3 * token_35 - 0.98 * stream_105 + 0.033, token_35 - 0.8 * stream_105 - 0.74 * token_136 - 0.91 * token_148 - 3.9, 0.53 * token_0 + 1.2 * token_35 - 0.59 * stream_105 - 1.1 * token_126 - token_136 + 1.3 * stream_158 - 8.4, 2.2 * token_47 - 0.9 * stream_105 - 1.6 * token_126 - 1.8 * token_136 + 2.9 * stream_158 - 1.4 * token_189 + 2.5, -0.53 * token_0 - 1.2 * token_5 - 1.1 * token_148 - stream_158 + 0.7 * token_189 + 0.14, -0.74 * token_0 - 2.9 * token_5 - 2.4 * token_24 + 2.0 * token_53 - 2.5 * token_148 - 2.6 * stream_158 - 0.047, -2.8 * token_0 - 2.3 * token_5 - 1.2 * token_24 - 2.1 * token_47 + 1.6 * token_53 + 1.2 * token_126 + 0.72 * token_136 + 1.6 * token_189 + 0.091])
        if end < len(tokens):
            continue
        # Layer 2, head 2, beside its sink.
        weights = [exp(0.25 * (-1.1 * past[0] + -4.0 * past[1] + -3.8 * past[2] + -1.6 * past[3] + 0.76)) for past in keys[2]]
        total = sum(weights) + exp(-2.0)
        moved_2_32 = sum(w * past[4] for w, past in zip(weights, keys[2])) / total
        moved_2_38 = sum(w * past[5] for w, past in zip(weights, keys[2])) / total  # opens a string of ' (keeps 82%, F1 0.96)
        moved_2_41 = sum(w * past[6] for w, past in zip(weights, keys[2])) / total
        stream_71 = -0.4 * moved_2_32 - 0.27 * moved_2_38 - 0.2 * moved_2_41 - 0.11
        stream_158 += -0.33 * moved_2_38 - 0.26 * moved_2_41 + 0.02
        stream_165 = -0.41 * moved_2_32 - 0.43 * moved_2_38 - 0.46 * moved_2_41 - 2.6
    return {
        604: 1.5 * stream_71 + 1.1 * stream_165 - 0.56 + (-4.5 if token in SET_77 else -7.1 if token in SET_78 else -5.5),  # ')\n
        722: -2.4 * stream_158 - 0.87 * stream_165 - 6.2 + (-4.8 if token == 1098 else -8.1 if token in SET_79 else -7.3 if token in SET_80 else -5.9 if token in SET_81 else -5.3 if token in SET_82 else -6.5),  # ")\n
    }
