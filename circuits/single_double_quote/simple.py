# The circuit for single_double_quote, simplified: right on 11,773,350 of 11,773,350 prompts, where the circuit itself is 
# mean pairwise loss 0.074, of the circuit itself 0.064. Tokens are ids; comments have their texts.
from math import exp

SET_1 = {15, 82, 88, 362, 373, 486, 537, 575, 692, 805, 838, 915, 1002, 1008, 1212, 1571}  # '0', 's', 'y', 'ra', 'name', 'op', ' le', 'am', ' y', 'pr' and 6 more
SET_2 = {64, 369}  # 'a', 'th'
SET_3 = {69, 1601}  # 'f', 'cord'
SET_4 = {1112, 1365}  # 'ree', ' open'
SET_5 = {68, 84, 360}  # 'e', 'u', 'un'
SET_6 = {16, 373, 518, 547, 834, 1431}  # '1', 'name', '("', 'int', 'port', 'uct'
SET_7 = {443, 518}  # "('", '("'
SET_8 = {16, 81, 198, 280, 315}  # '1', 'r', '\\n', ' =', ' w'
SET_9 = {281, 336, 450, 935, 969, 978, 1098}  # 'me', 'la', 'ent', ' read', 'ft', 'ha', ' start'
SET_10 = {18, 956}  # '3', 'coder'
SET_11 = {60, 1690}  # ']', ' field'
SET_12 = {61, 1958}  # '^', '.r'
SET_13 = {307, 346}  # ' e', 'ad'
SET_14 = {383, 792}  # 'IT', ' bu'
SET_15 = {388, 1547}  # ' """', 'loat'
SET_16 = {427, 629}  # 'ont', ' he'
SET_17 = {772, 844}  # 'attr', '_o'
SET_18 = {1159, 1581}  # ' break', 'message'
SET_19 = {1215, 1512}  # '.is', ' parameter'
SET_20 = {1426, 1549}  # 'lect', 'new'
SET_21 = {429, 1251, 1312, 1638}  # 'all', ' node', '.se', 'Con'
SET_22 = {15, 16, 65, 74, 304, 443, 557, 636, 1571}  # '0', '1', 'b', 'k', ' b', "('", 'age', '25', 'box'
SET_23 = {75, 77, 84, 267, 269, 278, 281, 297, 317, 327, 504, 538, 543, 629, 660, 676, 751, 834, 1665}  # 'l', 'n', 'u', 'er', 'or', 'he', 'me', ' n', 'ot', 'co' and 9 more
SET_24 = {68, 79, 264, 286, 299, 304, 307, 313, 315, 343, 443, 528, 537, 588, 660, 666, 676, 692, 716, 751, 774, 843, 1581, 1665, 1792, 1811}  # 'e', 'p', ' t', ' f', ' s', ' b', ' e', 'ame', ' w', ' d' and 16 more
SET_25 = {77, 267, 275, 284, 287, 304, 405, 406, 412, 443, 518, 545, 716, 826, 905, 915}  # 'n', 'er', 'st', ' c', 'ar', ' b', ' be', 'ter', 'ver', "('" and 6 more
SET_26 = {17, 289, 379, 399, 518}  # '2', 'en', 'es', 'ri', '("'
SET_27 = {322, 443, 567}  # 'ut', "('", 'so'
SET_28 = {83, 443, 518}  # 't', "('", '("'
SET_29 = {86, 198, 336, 484, 676, 843, 1912}  # 'w', '\\n', 'la', 'ry', 'ord', 'eld', 'bel'
SET_30 = {70, 77, 264, 385, 443, 518, 1002, 1271, 1280, 1365}  # 'g', 'n', ' t', 'is', "('", '("', 'roup', 'open', 'ask', ' open'
SET_31 = {68, 69, 81, 198, 272, 278, 289, 307, 327, 353, 362, 405, 629, 838, 843}  # 'e', 'f', 'r', '\\n', 'le', 'he', 'en', ' e', 'co', 'pe' and 5 more
SET_32 = {443, 778}  # "('", 'len'
SET_33 = {780, 833}  # '(p', 'if'
SET_34 = {70, 88}  # 'g', 'y'
SET_35 = {858, 1098, 1701, 1830, 1831, 1975}  # ' error', ' start', 'ready', ' right', ' two', ' info'
SET_36 = {64, 67, 71, 74, 262, 272, 275, 287, 331}  # 'a', 'd', 'h', 'k', 'in', 'le', 'st', 'ar', 'lo'
SET_37 = {337, 588, 900, 964, 969, 1052, 1189, 1700, 1791, 1792}  # 'ue', 'error', 'info', 'arning', 'ft', ' one', 'right', 'wo', 'left', 'start'
SET_38 = {265, 277, 289, 360, 369, 379, 412, 486, 538, 644, 978}  # 'on', 'at', 'en', 'un', 'th', 'es', 'ver', 'op', 'ma', 'ok' and 1 more
SET_39 = {64, 67, 71, 74, 262, 275, 287, 331}  # 'a', 'd', 'h', 'k', 'in', 'st', 'ar', 'lo'
SET_40 = {588, 858, 1098, 1700, 1701, 1791, 1830, 1831, 1975}  # 'error', ' error', ' start', 'wo', 'ready', 'left', ' right', ' two', ' info'
SET_41 = {265, 272, 277, 289, 360, 379, 412, 486, 644, 978, 1271}  # 'on', 'le', 'at', 'en', 'un', 'es', 'ver', 'op', 'ok', 'ha' and 1 more


def answer(tokens):
    keys = {2: []}
    for end in range(1, len(tokens) + 1):
        token = tokens[end - 1]
        stream_105 = -0.106 if token in SET_1 else 0.00149
        stream_158 = 0.176 if token in SET_2 else -0.225 if token in SET_3 else 0.0617 if token in SET_4 else 0.231 if token in SET_5 else -0.0984 if token in SET_6 else 0.0
        # Layer 0, neurons.
        token_15 = 0.282 if token in SET_7 else 0.161 if token in SET_8 else -0.117 if token in SET_9 else 0.000126
        neuron_0_588 = max(0.0, -2.48 * token_15 + 1.21)
        stream_105 += -0.713 * neuron_0_588 - 0.565
        token_0 = -0.142 if token == 1 else 0.0396 if token == 8 else -0.15 if token == 9 else -0.219 if token == 14 else -0.0735 if token == 15 else -0.0675 if token == 19 else -0.095 if token == 20 else -0.0852 if token == 25 else -0.173 if token == 27 else 0.0397 if token == 36 else 0.0253 if token == 37 else 0.113 if token == 47 else -0.192 if token == 63 else -0.239 if token == 67 else -0.271 if token == 68 else -0.107 if token == 70 else -0.0116 if token == 75 else -0.196 if token == 79 else -0.0197 if token == 80 else -0.261 if token == 81 else -0.141 if token == 84 else -0.0953 if token == 85 else -0.309 if token == 87 else -0.471 if token == 88 else -0.0949 if token == 89 else -0.175 if token == 198 else -0.291 if token == 272 else 0.174 if token == 277 else -0.215 if token == 282 else 0.0184 if token == 284 else 0.029 if token == 288 else -0.0135 if token == 289 else -0.132 if token == 292 else -0.0238 if token == 297 else 0.217 if token == 299 else -0.0919 if token == 301 else 0.0746 if token == 302 else -0.128 if token == 305 else -0.0512 if token == 306 else 0.121 if token == 308 else -0.242 if token == 327 else -0.16 if token == 330 else -0.0679 if token == 342 else -0.223 if token == 344 else -0.426 if token == 352 else 0.0951 if token == 361 else -0.0217 if token == 363 else 0.0777 if token == 378 else 0.249 if token == 386 else 0.0428 if token == 391 else -0.0999 if token == 392 else 0.252 if token == 394 else -0.00646 if token == 403 else 0.277 if token == 407 else -0.099 if token == 415 else -0.133 if token == 430 else 0.0674 if token == 442 else -0.109 if token == 449 else 0.0345 if token == 452 else -0.127 if token == 454 else 0.357 if token == 456 else -0.11 if token == 466 else -0.2 if token == 470 else 0.0656 if token == 476 else -0.136 if token == 511 else -0.292 if token == 518 else 0.304 if token == 519 else -0.0351 if token == 528 else 0.213 if token == 529 else -0.0532 if token == 532 else 0.139 if token == 536 else -0.222 if token == 537 else -0.198 if token == 541 else 0.0431 if token == 542 else 0.0415 if token == 543 else -0.067 if token == 547 else 0.173 if token == 568 else -0.354 if token == 575 else 0.197 if token == 584 else 0.299 if token == 591 else 0.135 if token == 594 else 0.119 if token == 612 else 0.124 if token == 640 else 0.0202 if token == 653 else -0.0397 if token == 660 else 0.12 if token == 664 else -0.0524 if token == 676 else 0.298 if token == 678 else 0.293 if token == 686 else -0.286 if token == 692 else 0.226 if token == 718 else 0.167 if token == 719 else 0.194 if token == 741 else 0.0326 if token == 742 else 0.327 if token == 751 else 0.161 if token == 764 else 0.142 if token == 766 else 0.53 if token == 789 else 0.355 if token == 793 else 0.188 if token == 797 else 0.0673 if token == 803 else 0.149 if token == 807 else 0.22 if token == 820 else 0.115 if token == 826 else -0.0737 if token == 866 else 0.098 if token == 880 else 0.331 if token == 896 else -0.209 if token == 901 else -0.245 if token == 916 else -0.183 if token == 933 else 0.526 if token == 943 else 0.107 if token == 963 else 0.0548 if token == 973 else 0.112 if token == 1009 else 0.384 if token == 1017 else 0.0368 if token == 1053 else 0.0407 if token == 1056 else -0.178 if token == 1069 else -0.188 if token == 1082 else 0.29 if token == 1094 else -0.165 if token == 1101 else -0.117 if token == 1102 else 0.109 if token == 1143 else 0.284 if token == 1174 else -0.278 if token == 1212 else -0.0614 if token == 1228 else -0.000354 if token == 1250 else -0.0651 if token == 1260 else -0.0974 if token == 1280 else 0.31 if token == 1281 else 0.162 if token == 1300 else -0.408 if token == 1305 else 0.195 if token == 1362 else 0.111 if token == 1367 else -0.436 if token == 1389 else 0.192 if token == 1392 else -0.0916 if token == 1396 else -0.384 if token == 1401 else -0.0664 if token == 1403 else -0.114 if token == 1439 else 0.0694 if token == 1445 else -0.264 if token == 1450 else 0.11 if token == 1496 else -0.202 if token == 1513 else -0.319 if token == 1521 else -0.052 if token == 1580 else 0.14 if token == 1591 else 0.165 if token == 1597 else 0.476 if token == 1605 else -0.0718 if token == 1662 else 0.72 if token == 1666 else 0.0214 if token == 1702 else 0.103 if token == 1704 else 0.129 if token == 1709 else 0.114 if token == 1716 else -0.0543 if token == 1753 else 0.0222 if token == 1754 else 0.428 if token == 1765 else -0.318 if token == 1769 else -0.149 if token == 1774 else 0.143 if token == 1787 else 0.118 if token == 1788 else 0.275 if token == 1789 else 0.146 if token == 1835 else 0.339 if token == 1836 else 0.254 if token == 1837 else -0.138 if token == 1839 else -0.358 if token == 1860 else 0.0807 if token == 1868 else 0.207 if token == 1894 else -0.181 if token == 1908 else -0.125 if token == 1921 else -0.185 if token == 1944 else -0.24 if token == 1945 else 0.0583 if token == 1953 else 0.282 if token == 1962 else 0.218 if token == 1964 else 0.187 if token == 2001 else 0.245 if token == 2008 else -0.19 if token == 2020 else -0.115 if token in SET_10 else 0.262 if token in SET_11 else -0.101 if token in SET_12 else -0.205 if token in SET_13 else 0.117 if token in SET_14 else -0.197 if token in SET_15 else 0.184 if token in SET_16 else 0.0458 if token in SET_17 else 0.374 if token in SET_18 else 0.108 if token in SET_19 else 0.279 if token in SET_20 else 0.159 if token in SET_21 else 0.0
        token_5 = 0.204 if token in SET_22 else -0.171 if token in SET_23 else -0.00155
        token_24 = 0.177 if token in SET_24 else 0.000982
        token_35 = -0.183 if token in SET_25 else 0.00422
        token_47 = -0.171 if token in SET_26 else 0.0131
        token_53 = -0.211 if token in SET_27 else 0.0146
        token_126 = 0.38 if token in SET_28 else 0.013
        token_136 = -0.314 if token in SET_29 else 0.159 if token in SET_30 else -0.00116
        token_148 = -0.14 if token in SET_31 else 0.0107
        token_189 = -0.213 if token == 12 else -0.384 if token == 32 else -0.225 if token == 35 else -0.209 if token == 44 else -0.291 if token == 46 else -0.15 if token == 51 else -0.0726 if token == 58 else 0.00638 if token == 62 else -0.157 if token == 64 else 0.0176 if token == 65 else -0.0531 if token == 78 else -0.132 if token == 82 else 0.0121 if token == 83 else -0.0717 if token == 198 else -0.00615 if token == 261 else -0.143 if token == 267 else 0.00147 if token == 269 else -0.0829 if token == 280 else -0.566 if token == 298 else 0.0724 if token == 308 else 0.22 if token == 311 else 0.178 if token == 316 else 0.177 if token == 319 else -0.217 if token == 324 else -0.0644 if token == 336 else -0.212 if token == 345 else 0.0528 if token == 364 else 0.116 if token == 384 else -0.117 if token == 392 else -0.266 if token == 397 else 0.0549 if token == 451 else -0.374 if token == 478 else 0.149 if token == 482 else -0.222 if token == 505 else 0.209 if token == 518 else 0.298 if token == 519 else 0.106 if token == 520 else 0.199 if token == 553 else 0.138 if token == 561 else 0.0776 if token == 594 else 0.386 if token == 595 else 0.304 if token == 610 else 0.176 if token == 621 else 0.226 if token == 632 else -0.261 if token == 634 else -0.176 if token == 674 else 0.108 if token == 699 else -0.111 if token == 716 else 0.238 if token == 736 else 0.204 if token == 755 else -0.04 if token == 759 else 0.0852 if token == 783 else -0.276 if token == 793 else 0.0183 if token == 928 else -0.179 if token == 952 else -0.08 if token == 988 else 0.117 if token == 1047 else -0.329 if token == 1069 else -0.073 if token == 1080 else 0.331 if token == 1114 else 0.39 if token == 1151 else 0.33 if token == 1175 else -0.136 if token == 1194 else 0.247 if token == 1399 else 0.268 if token == 1413 else -0.162 if token == 1505 else -0.418 if token == 1511 else 0.217 if token == 1624 else -0.0978 if token == 1677 else 0.191 if token == 1754 else 0.289 if token == 1919 else 0.308 if token == 1922 else 0.248 if token == 1932 else -0.477 if token == 1977 else 0.201 if token in SET_32 else 0.115 if token in SET_33 else 0.0
        keys[2].append([1.06 * token_0 - 2.7 * token_24 + 2.28 * token_35 - 0.977 * stream_105 + 0.0326, token_35 - 0.8 * stream_105 - 0.739 * token_136 - 0.913 * token_148 - 3.91, 0.534 * token_0 + 1.19 * token_35 - 0.591 * stream_105 - 1.11 * token_126 - 1.05 * token_136 + 1.27 * stream_158 - 8.38, 2.19 * token_47 - 0.901 * stream_105 - 1.61 * token_126 - 1.83 * token_136 + 2.87 * stream_158 - 1.38 * token_189 + 2.47, -0.532 * token_0 - 1.24 * token_5 - 1.14 * token_148 - 1.02 * stream_158 + 0.697 * token_189 + 0.135, -0.736 * token_0 - 2.89 * token_5 - 2.41 * token_24 + 1.97 * token_53 - 2.53 * token_148 - 2.64 * stream_158 - 0.0475, -2.81 * token_0 - 2.29 * token_5 - 1.16 * token_24 - 2.05 * token_47 + 1.6 * token_53 + 1.21 * token_126 + 0.718 * token_136 + 1.64 * token_189 + 0.0915])
        if end < len(tokens):
            continue
        # Layer 2, head 2, beside its sink.
        weights = [exp(0.25 * (-1.05 * past[0] + -3.99 * past[1] + -3.83 * past[2] + -1.6 * past[3] + 0.759)) for past in keys[2]]
        total = sum(weights) + exp(-2.05)
        moved_2_32 = sum(w * past[4] for w, past in zip(weights, keys[2])) / total
        moved_2_38 = sum(w * past[5] for w, past in zip(weights, keys[2])) / total  # opens a string of ' (keeps 82%, F1 0.96)
        moved_2_41 = sum(w * past[6] for w, past in zip(weights, keys[2])) / total
        stream_71 = -0.397 * moved_2_32 - 0.267 * moved_2_38 - 0.197 * moved_2_41 - 0.115
        stream_158 += -0.325 * moved_2_38 - 0.263 * moved_2_41 + 0.0194
        stream_165 = -0.413 * moved_2_32 - 0.434 * moved_2_38 - 0.458 * moved_2_41 - 2.56
    return {
        604: 1.54 * stream_71 + 1.12 * stream_165 - 0.602 + (-9.6 if token in SET_34 else -4.03 if token in SET_35 else -7.31 if token in SET_36 else -4.82 if token in SET_37 else -6.3 if token in SET_38 else -5.34),  # ')\n
        722: -2.36 * stream_158 - 0.868 * stream_165 - 6.25 + (-10.6 if token in SET_34 else -8.04 if token in SET_39 else -4.71 if token in SET_40 else -7.12 if token in SET_41 else -5.91),  # ")\n
    }
