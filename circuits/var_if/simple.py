# The circuit for var_if, simplified: right on 1,506,204 of 1,596,912 prompts, where the circuit itself is on 1,554,318;
# mean pairwise loss 0.207, of the circuit itself 0.190. Tokens are ids; comments have their texts.
from math import exp

SET_1 = {82, 833}  # 's', 'if'
SET_2 = {15, 16, 17, 20, 66, 87}  # '0', '1', '2', '5', 'c', 'x'
SET_3 = {198, 220, 520, 761}  # '\\n', ' ', ' ==', ' True'
SET_4 = {18, 19, 20, 21, 22, 23, 24, 66, 263, 528, 679, 751, 761, 2003}  # '3', '4', '5', '6', '7', '8', '9', 'c', 're', 'key' and 4 more
SET_5 = {3, 574}  # '$', ' cont'
SET_6 = {13, 1136}  # '.', 'ytes'
SET_7 = {25, 1426}  # ':', 'lect'
SET_8 = {29, 1867}  # '>', ' instead'
SET_9 = {30, 1230}  # '?', 'ENT'
SET_10 = {39, 485}  # 'H', 'def'
SET_11 = {56, 833}  # 'Y', 'if'
SET_12 = {66, 954}  # 'c', 'lat'
SET_13 = {73, 330}  # 'j', 'ed'
SET_14 = {74, 1293}  # 'k', 'riter'
SET_15 = {81, 810}  # 'r', 'ED'
SET_16 = {84, 1007}  # 'u', 'dir'
SET_17 = {87, 1876}  # 'x', 'ding'
SET_18 = {88, 312}  # 'y', ' L'
SET_19 = {222, 703}  # '\\ufffd', ' If'
SET_20 = {257, 1935}  # '    ', ' orig'
SET_21 = {261, 814}  # '       ', ' add'
SET_22 = {287, 504}  # 'ar', 'art'
SET_23 = {294, 1102}  # 'ur', 'mb'
SET_24 = {299, 453}  # ' s', ' W'
SET_25 = {304, 772}  # ' b', 'attr'
SET_26 = {311, 1573}  # ' if', 'check'
SET_27 = {316, 506}  # ' -', ' B'
SET_28 = {318, 365}  # ' de', ' T'
SET_29 = {325, 828}  # '00', 'back'
SET_30 = {327, 1505}  # 'co', '=self'
SET_31 = {329, 1989}  # '               ', '_from'
SET_32 = {332, 528}  # 'mp', 'key'
SET_33 = {338, 1268}  # ' an', ' contain'
SET_34 = {369, 681}  # 'th', 'ctor'
SET_35 = {370, 579}  # 'TER', 'ys'
SET_36 = {385, 594}  # 'is', 'out'
SET_37 = {388, 1457}  # ' """', ' iter'
SET_38 = {389, 1069}  # ' ex', ' **'
SET_39 = {396, 1633}  # ' D', 'Implement'
SET_40 = {402, 724}  # 'lin', 'ded'
SET_41 = {405, 420}  # ' be', "',"
SET_42 = {413, 695}  # ' h', ' method'
SET_43 = {427, 1208}  # 'ont', 'kwargs'
SET_44 = {433, 980}  # 'ect', ' la'
SET_45 = {442, 1234}  # 'ig', 'ations'
SET_46 = {446, 1740}  # 'ap', '_g'
SET_47 = {449, 474}  # '()\\n', ' raise'
SET_48 = {452, 1341}  # 'use', '...'
SET_49 = {455, 1478}  # 'end', 'ore'
SET_50 = {472, 955}  # 'ction', '22'
SET_51 = {473, 507}  # '==', 'ode'
SET_52 = {476, 1910}  # '.p', 'socket'
SET_53 = {487, 962}  # 'ase', 'lit'
SET_54 = {493, 596}  # ' %', ' are'
SET_55 = {502, 616}  # 'class', 'ument'
SET_56 = {527, 584}  # 'ader', 'mat'
SET_57 = {537, 1275}  # ' le', '.n'
SET_58 = {538, 2011}  # 'ma', 'AB'
SET_59 = {543, 1368}  # 'able', ' exc'
SET_60 = {546, 586}  # ' ma', 'app'
SET_61 = {551, 1703}  # ' that', 'hen'
SET_62 = {553, 1255}  # ' """\\n', ' X'
SET_63 = {557, 995}  # 'age', 'CK'
SET_64 = {573, 1435}  # ' WITH', '02'
SET_65 = {582, 1074}  # 'None', ' only'
SET_66 = {583, 1490}  # ' on', ' non'
SET_67 = {601, 618}  # ' The', '     '
SET_68 = {619, 1314}  # ' get', ' charact'
SET_69 = {627, 1797}  # ' H', ' find'
SET_70 = {639, 1966}  # ' this', ' wrap'
SET_71 = {648, 668}  # 'per', ' fun'
SET_72 = {654, 1014}  # 'ip', '",\\n'
SET_73 = {657, 672}  # ' G', 'rite'
SET_74 = {658, 1067}  # 'ers', 'om'
SET_75 = {669, 1210}  # 'ribut', 'CE'
SET_76 = {673, 869}  # ' par', 'par'
SET_77 = {684, 1650}  # 'ive', 'rict'
SET_78 = {702, 1433}  # 'yth', ' exp'
SET_79 = {705, 1363}  # ' {', ' close'
SET_80 = {727, 1182}  # 'add', 'ac'
SET_81 = {749, 1486}  # ' pre', ' cor'
SET_82 = {761, 1370}  # ' True', 'unc'
SET_83 = {771, 1323}  # '                  ', ' over'
SET_84 = {774, 778}  # 'vent', 'len'
SET_85 = {784, 1023}  # 'uld', ' have'
SET_86 = {785, 796}  # 'cs', 'ger'
SET_87 = {804, 1244}  # 'act', 'IA'
SET_88 = {807, 986}  # '(s', "':\\n"
SET_89 = {815, 1110}  # 'ain', '.de'
SET_90 = {819, 984}  # 'RO', ' must'
SET_91 = {843, 1702}  # 'eld', 'KE'
SET_92 = {849, 976}  # ' text', ' op'
SET_93 = {850, 1157}  # 'no', ' dis'
SET_94 = {863, 1882}  # 'fe', 'ify'
SET_95 = {885, 1838}  # 'mplement', ' und'
SET_96 = {893, 1754}  # ' char', '.join'
SET_97 = {927, 1934}  # ' speci', ' IS'
SET_98 = {934, 1061}  # ' when', ' su'
SET_99 = {935, 959}  # ' read', 'oth'
SET_100 = {938, 958}  # ' De', 'join'
SET_101 = {941, 1843}  # ' which', ' example'
SET_102 = {949, 988}  # 'DE', 'St'
SET_103 = {983, 1246}  # 'fig', 'ls'
SET_104 = {1000, 1699}  # '10', "'))\\n"
SET_105 = {1001, 1142}  # ' but', 'spon'
SET_106 = {1012, 1410}  # 'form', '_m'
SET_107 = {1017, 1472}  # ' message', 'clude'
SET_108 = {1020, 1401}  # " ('", ' "__'
SET_109 = {1039, 1982}  # '_ex', ' don'
SET_110 = {1044, 1533}  # '_type', 'sh'
SET_111 = {1082, 1636}  # ' msg', ' you'
SET_112 = {1092, 2035}  # 'pp', '_to'
SET_113 = {1122, 1352}  # 'po', '=True'
SET_114 = {1133, 1603}  # 'sent', '.h'
SET_115 = {1309, 1786}  # ' frame', '                      '
SET_116 = {1353, 1679}  # 'The', ' del'
SET_117 = {1358, 1877}  # '().', 'arn'
SET_118 = {1459, 1895}  # ' des', '-b'
SET_119 = {1511, 1681}  # 'ttp', ' process'
SET_120 = {1527, 1611}  # ' into', ' some'
SET_121 = {1539, 1954}  # ' <=', ' &'
SET_122 = {1540, 1853}  # 'Co', ' ad'
SET_123 = {1597, 1673}  # ' next', 'build'
SET_124 = {1624, 2033}  # '.split', 'du'
SET_125 = {1698, 1999}  # ' init', ' igno'
SET_126 = {1700, 1883}  # 'wo', '")'
SET_127 = {1755, 1905}  # 'PO', ' represent'
SET_128 = {1767, 1891}  # ' they', 'cause'
SET_129 = {1854, 1970}  # ' each', ' finally'
SET_130 = {1860, 1884}  # '"\\\\', ' ig'
SET_131 = {1907, 1947}  # 'annot', '_error'
SET_132 = {1993, 2034}  # 'lean', '_par'
SET_133 = {26, 372, 1485}  # ';', '----', " '__"
SET_134 = {76, 306, 1345}  # 'm', 'ct', '_list'
SET_135 = {85, 264, 1141}  # 'v', ' t', ' z'
SET_136 = {270, 856, 1111}  # ' i', 'EF', 'UM'
SET_137 = {352, 1269, 1273}  # '"""', ' support', 'ick'
SET_138 = {362, 834, 1901}  # 'ra', 'port', 'unction'
SET_139 = {400, 714, 1846}  # ' th', ' class', ' J'
SET_140 = {414, 746, 1257}  # 'ate', 'ator', 'ld'
SET_141 = {415, 1187, 1397}  # 'as', 'IZ', 'OL'
SET_142 = {432, 536, 1254}  # 'ir', 'ser', ' size'
SET_143 = {440, 512, 1413}  # "',\\n", ' by', ' assert'
SET_144 = {511, 1197, 1902}  # ' E', '.write', '(*'
SET_145 = {520, 675, 1570}  # ' ==', 'dd', '(path'
SET_146 = {645, 1034, 1174}  # ' pa', 'inal', 'ong'
SET_147 = {680, 841, 1738}  # ' can', "'t", ' OF'
SET_148 = {835, 1063, 1179}  # "='", ' po', '.in'
SET_149 = {901, 1389, 1793}  # "'s", ' "\\n', ' debug'
SET_150 = {971, 1176, 1602}  # ' no', 'qui', 'lease'
SET_151 = {996, 1391, 1773}  # ' should', ' ab', ' We'
SET_152 = {1029, 1452, 1840}  # ' In', ' Un', 'cro'
SET_153 = {1158, 1817, 1997}  # '.set', '(),', 'emp'
SET_154 = {1186, 1222, 1605}  # 'IR', ' Type', ' app'
SET_155 = {1262, 1365, 1744}  # 'ATION', ' open', 'mod'
SET_156 = {1315, 1383, 2016}  # ' case', '_N', ' comple'
SET_157 = {1510, 1586, 1705}  # ' also', ' than', ' It'
SET_158 = {1561, 1668, 1764}  # ' found', ' need', "'\\\\"
SET_159 = {4, 1148, 2030, 2041}  # '%', ' ac', ' make', 'Int'
SET_160 = {61, 1129, 1836, 2040}  # '^', '========', ' man', ' Exten'
SET_161 = {71, 969, 1361, 1504}  # 'h', 'ft', 'its', '06'
SET_162 = {78, 665, 1091, 1465}  # 'o', 'ms', 'ran', 'ta'
SET_163 = {480, 853, 1832, 1981}  # ' me', '.path', 'ized', ' act'
SET_164 = {483, 1466, 1560, 1996}  # '**', '.add', ' std', ' parse'
SET_165 = {535, 1532, 1713, 1952}  # ' it', ' exist', 'Lo', ' warnings'
SET_166 = {591, 1388, 1512, 1939}  # ' ch', 'MA', ' parameter', ' Co'
SET_167 = {614, 985, 1340, 1932}  # 'ault', 'bug', ' values', '(other'
SET_168 = {831, 906, 1052, 1914}  # ' call', ' used', ' one', ' dictionary'
SET_169 = {861, 1163, 1215, 1919}  # ' This', 'ERT', '.is', '(input'
SET_170 = {1469, 1587, 1664, 1928}  # '.close', ' >=', 'wait', 'yte'
SET_171 = {310, 530, 1119, 1666, 1892}  # '                ', ' ar', ' +=', 'OD', '(msg'
SET_172 = {691, 719, 748, 908, 1151}  # ' we', '.st', '.w', ' Re', ' while'
SET_173 = {693, 897, 1095, 1440, 1543}  # 'HA', 'tern', ' K', '[-', ' gener'
SET_174 = {468, 902, 1294, 1421, 1654, 1949}  # 'mport', ' >', "'.", ' \\\\', '[i', ' full'
SET_175 = {532, 621, 767, 1312, 1423, 1455}  # 'qu', ' <', ' un', '.se', ' thread', ' objects'
SET_176 = {66, 263, 292}  # 'c', 're', 'it'
SET_177 = {220, 280, 679}  # ' ', ' =', ' key'
SET_178 = {15, 67, 79, 88, 267, 336, 353}  # '0', 'd', 'p', 'y', 'er', 'la', 'pe'
SET_179 = {76, 82, 83, 263, 304, 315, 666, 833, 2026}  # 'm', 's', 't', 're', ' b', ' w', 'unt', 'if', ' q'
SET_180 = {82, 263, 267, 292, 319, 336, 520, 543, 557, 670, 676, 1431, 1581, 1770}  # 's', 're', 'er', 'it', ' is', 'la', ' ==', 'able', 'age', 'sult' and 4 more
SET_181 = {267, 292}  # 'er', 'it'
SET_182 = {76, 79, 80, 263, 328, 543, 1591}  # 'm', 'p', 'q', 're', ' m', 'able', 'text'
SET_183 = {315, 833, 1241}  # ' w', 'if', 'word'
SET_184 = {319, 520, 666, 1595}  # ' is', ' ==', 'unt', ' count'
SET_185 = {220, 319}  # ' ', ' is'
SET_186 = {17, 83, 280}  # '2', 't', ' ='
SET_187 = {78, 319, 1770}  # 'o', ' is', 'play'
SET_188 = {360, 767}  # 'un', ' un'
SET_189 = {70, 292, 833}  # 'g', 'it', 'if'
SET_190 = {67, 79, 82, 299, 1431}  # 'd', 'p', 's', ' s', 'uct'
SET_191 = {336, 833, 843, 1209}  # 'la', 'if', 'eld', 'level'
SET_192 = {566, 666, 1690}  # 'fi', 'unt', ' field'
SET_193 = {67, 79, 83, 300}  # 'd', 'p', 't', ' p'
SET_194 = {89, 220, 843, 1141, 1241}  # 'z', ' ', 'eld', ' z', 'word'
SET_195 = {72, 82, 86, 88, 270, 640, 826, 833, 978}  # 'i', 's', 'w', 'y', ' i', ' pro', 'pro', 'if', 'ha'
SET_196 = {319, 520, 833}  # ' is', ' ==', 'if'
SET_197 = {220, 267, 292, 319, 528, 833, 843, 1017}  # ' ', 'er', 'it', ' is', 'key', 'if', 'eld', ' message'
SET_198 = {15, 89, 264, 270, 299, 304, 328, 522, 767, 1094, 1141, 1591}  # '0', 'z', ' t', ' i', ' s', ' b', ' m', ' g', ' un', ' number' and 2 more
SET_199 = {267, 1595}  # 'er', ' count'
SET_200 = {319, 666}  # ' is', 'unt'
SET_201 = {833, 1241}  # 'if', 'word'
SET_202 = {72, 86, 299, 315}  # 'i', 'w', ' s', ' w'


def keep(x, least):
    return x if abs(x) >= least else 0.0


def answer(tokens):
    keys = {1: [], 2: [], 3: []}
    for end in range(1, len(tokens) + 1):
        token = tokens[end - 1]
        stream_62 = -0.127 if token == 761 else 0.179 if token in SET_1 else 0.079 if token in SET_2 else -0.00193
        stream_86 = 0.32 if token in SET_3 else -0.0126
        stream_130 = -0.164 if token in SET_4 else 0.0146
        stream_145 = -0.49 if token == 198 else 0.00294
        stream_162 = -0.0331 if token == 0 else 0.0256 if token == 6 else -0.00849 if token == 7 else 0.0175 if token == 8 else 0.0337 if token == 9 else -0.0817 if token == 14 else 0.0148 if token == 16 else 0.042 if token == 17 else 0.0185 if token == 23 else -0.193 if token == 27 else 0.00975 if token == 32 else 0.0132 if token == 34 else -0.0355 if token == 42 else 0.058 if token == 43 else 0.0319 if token == 44 else 0.0497 if token == 46 else 0.0258 if token == 47 else -0.0329 if token == 48 else 0.00357 if token == 49 else 0.0383 if token == 50 else -0.0649 if token == 52 else -0.00528 if token == 54 else 0.04 if token == 55 else -0.0139 if token == 58 else 0.0437 if token == 60 else 0.0126 if token == 62 else 0.0215 if token == 63 else 0.0594 if token == 64 else 0.0929 if token == 65 else 0.182 if token == 67 else 0.0888 if token == 68 else 0.0259 if token == 69 else 0.101 if token == 70 else 0.066 if token == 72 else 0.0872 if token == 75 else 0.072 if token == 77 else 0.15 if token == 79 else 0.00243 if token == 80 else 0.0873 if token == 82 else 0.0853 if token == 83 else 0.0419 if token == 86 else 0.0921 if token == 89 else -0.0169 if token == 90 else 0.202 if token == 93 else -0.0283 if token == 95 else 0.0131 if token == 220 else 0.107 if token == 260 else 0.0777 if token == 262 else 0.0864 if token == 263 else 0.131 if token == 265 else -0.00924 if token == 266 else 0.179 if token == 267 else -0.0495 if token == 271 else 0.00811 if token == 272 else 0.401 if token == 273 else 0.0636 if token == 275 else -0.0184 if token == 276 else 0.0248 if token == 277 else 0.0105 if token == 278 else 0.006 if token == 279 else -0.0194 if token == 280 else 0.161 if token == 281 else -0.0145 if token == 282 else 0.00588 if token == 284 else 0.218 if token == 285 else -0.0167 if token == 286 else 0.342 if token == 289 else -0.0171 if token == 290 else 0.00654 if token == 291 else 0.0382 if token == 292 else 0.0397 if token == 293 else -0.00306 if token == 295 else 0.0289 if token == 296 else 0.0572 if token == 301 else 0.0236 if token == 303 else 0.241 if token == 305 else 0.00156 if token == 308 else -0.0216 if token == 309 else 0.0346 if token == 314 else 0.152 if token == 317 else 0.00656 if token == 319 else 0.154 if token == 320 else 0.0223 if token == 322 else -0.0186 if token == 324 else 0.00875 if token == 326 else -0.0377 if token == 331 else -0.0893 if token == 333 else -0.0347 if token == 334 else 0.0381 if token == 337 else -0.163 if token == 339 else -0.0991 if token == 341 else 0.038 if token == 342 else -0.0573 if token == 345 else 0.118 if token == 346 else 0.00227 if token == 348 else -0.00482 if token == 350 else -0.0237 if token == 351 else 0.242 if token == 353 else -0.0928 if token == 354 else -0.0522 if token == 356 else -0.0733 if token == 358 else 0.00863 if token == 359 else -0.0142 if token == 361 else -0.029 if token == 363 else -0.041 if token == 364 else -0.023 if token == 366 else -0.05 if token == 367 else -0.00841 if token == 373 else -0.0581 if token == 374 else 0.112 if token == 379 else 0.138 if token == 383 else -0.00675 if token == 384 else 0.0779 if token == 386 else 0.0102 if token == 387 else -0.0542 if token == 390 else 0.491 if token == 392 else 0.0182 if token == 393 else -0.0835 if token == 395 else 0.00762 if token == 397 else -0.0845 if token == 398 else 0.0404 if token == 399 else 0.0816 if token == 401 else 0.0778 if token == 403 else 0.0277 if token == 404 else 0.0889 if token == 406 else -0.0559 if token == 407 else 0.0957 if token == 410 else -0.233 if token == 411 else 0.0101 if token == 417 else 0.0923 if token == 419 else 0.122 if token == 421 else -0.0639 if token == 423 else -0.0436 if token == 425 else 0.0854 if token == 428 else 0.0432 if token == 429 else 0.0946 if token == 430 else 0.00451 if token == 434 else -0.0647 if token == 436 else 0.0321 if token == 437 else -0.0174 if token == 438 else 0.0058 if token == 439 else 0.133 if token == 447 else 0.0544 if token == 448 else 0.149 if token == 450 else 0.00646 if token == 459 else -0.0615 if token == 461 else 0.178 if token == 462 else -0.0673 if token == 463 else 0.153 if token == 464 else 0.0547 if token == 466 else 0.0642 if token == 467 else 0.0556 if token == 470 else -0.104 if token == 475 else -0.15 if token == 478 else -0.237 if token == 479 else 0.0423 if token == 481 else -8.58e-05 if token == 482 else 0.00199 if token == 486 else 0.0752 if token == 488 else -0.0763 if token == 490 else -0.0796 if token == 491 else 0.0496 if token == 492 else 0.132 if token == 495 else 0.0599 if token == 499 else -0.0569 if token == 508 else 0.0512 if token == 509 else -0.0447 if token == 513 else -0.095 if token == 516 else 0.0224 if token == 517 else -0.0384 if token == 518 else 0.0846 if token == 522 else -0.0924 if token == 524 else -0.0117 if token == 526 else -0.0549 if token == 529 else 0.0771 if token == 534 else -0.0958 if token == 541 else 0.127 if token == 542 else 0.00333 if token == 544 else 0.0628 if token == 547 else -0.0479 if token == 549 else -0.0356 if token == 552 else 0.0549 if token == 555 else -0.0766 if token == 558 else -0.119 if token == 559 else -0.0388 if token == 560 else -0.0708 if token == 561 else -0.0543 if token == 562 else -0.122 if token == 563 else -0.00928 if token == 564 else 0.0555 if token == 565 else 0.288 if token == 566 else 0.0306 if token == 567 else 0.144 if token == 568 else 0.184 if token == 571 else -0.0152 if token == 572 else -0.0416 if token == 576 else 0.0762 if token == 577 else 0.0885 if token == 578 else 0.0623 if token == 587 else -0.0888 if token == 590 else -0.0668 if token == 595 else -0.0699 if token == 597 else -0.0247 if token == 598 else 0.0275 if token == 600 else -0.0637 if token == 603 else -0.0394 if token == 605 else 0.0641 if token == 607 else -0.0249 if token == 608 else -0.0175 if token == 610 else 0.00886 if token == 612 else -0.334 if token == 613 else 0.0443 if token == 615 else -0.121 if token == 620 else -0.105 if token == 622 else -0.00743 if token == 625 else -0.0598 if token == 629 else 0.0424 if token == 631 else -0.156 if token == 632 else -0.0899 if token == 633 else 0.0666 if token == 634 else 0.047 if token == 636 else 0.0461 if token == 637 else 0.035 if token == 640 else -0.0523 if token == 642 else 0.0133 if token == 643 else 0.064 if token == 644 else -0.0304 if token == 646 else -0.0269 if token == 647 else 0.189 if token == 652 else -0.0351 if token == 653 else -0.0954 if token == 662 else -0.0632 if token == 664 else 0.06 if token == 666 else 0.0196 if token == 667 else 0.0216 if token == 671 else -0.0415 if token == 674 else -0.0215 if token == 676 else -0.0267 if token == 678 else -0.0202 if token == 685 else -0.0212 if token == 687 else -0.0786 if token == 689 else -0.0696 if token == 694 else 0.00961 if token == 698 else 0.0338 if token == 708 else -0.0259 if token == 711 else -0.17 if token == 712 else -0.1 if token == 713 else 0.0156 if token == 715 else -0.0126 if token == 716 else 0.0462 if token == 717 else 0.158 if token == 725 else 0.256 if token == 726 else 0.0953 if token == 728 else -0.0182 if token == 729 else -0.0371 if token == 737 else -0.0586 if token == 738 else 0.171 if token == 740 else 0.0494 if token == 741 else -0.0611 if token == 744 else 0.01 if token == 750 else 0.0445 if token == 751 else 0.0948 if token == 753 else -0.084 if token == 755 else 0.0647 if token == 758 else -0.0445 if token == 759 else -0.0694 if token == 760 else 0.0155 if token == 764 else 0.0832 if token == 765 else -0.0105 if token == 768 else 0.023 if token == 770 else -0.0576 if token == 773 else -0.0504 if token == 776 else -0.0947 if token == 777 else 0.0143 if token == 779 else -0.191 if token == 782 else 0.00526 if token == 783 else 0.0566 if token == 786 else -0.266 if token == 787 else -0.0762 if token == 789 else 0.0176 if token == 790 else -0.0508 if token == 792 else 0.0325 if token == 794 else -0.0998 if token == 795 else -0.0744 if token == 797 else 0.0104 if token == 798 else 0.0262 if token == 799 else -0.0333 if token == 803 else 0.00228 if token == 805 else 0.199 if token == 806 else -0.0476 if token == 809 else -0.112 if token == 811 else -0.0905 if token == 812 else 0.0537 if token == 816 else -0.0616 if token == 817 else -0.0605 if token == 818 else 0.0766 if token == 827 else 0.0493 if token == 829 else 0.076 if token == 832 else -0.0814 if token == 836 else 0.14 if token == 838 else -0.0366 if token == 839 else -0.071 if token == 840 else -0.0381 if token == 846 else -0.0965 if token == 848 else -0.00864 if token == 854 else 0.085 if token == 860 else -0.0537 if token == 866 else -0.028 if token == 870 else 0.0609 if token == 872 else -0.0204 if token == 878 else -0.0452 if token == 891 else -0.00837 if token == 895 else 0.207 if token == 903 else 0.274 if token == 905 else 0.0204 if token == 907 else -0.0357 if token == 916 else -0.169 if token == 917 else -0.0473 if token == 919 else 0.0574 if token == 920 else 0.317 if token == 922 else -0.0481 if token == 929 else -0.0688 if token == 930 else -0.198 if token == 931 else 0.0193 if token == 932 else -0.0653 if token == 933 else 0.0384 if token == 939 else 0.0993 if token == 940 else 0.00828 if token == 943 else 0.099 if token == 944 else 0.0415 if token == 951 else -0.0684 if token == 952 else 0.00262 if token == 956 else 0.0724 if token == 961 else -0.0547 if token == 963 else -0.0217 if token == 964 else 0.0481 if token == 965 else 0.0619 if token == 973 else -0.0718 if token == 974 else -0.0161 if token == 978 else -0.0341 if token == 998 else -0.0402 if token == 1002 else 0.0452 if token == 1003 else -0.197 if token == 1006 else 0.0589 if token == 1008 else -0.00848 if token == 1009 else 0.0844 if token == 1011 else -0.0884 if token == 1016 else -0.224 if token == 1022 else -0.0272 if token == 1024 else -0.0376 if token == 1025 else 0.162 if token == 1027 else -0.126 if token == 1030 else -0.0886 if token == 1031 else -0.154 if token == 1035 else -0.378 if token == 1036 else -0.00266 if token == 1040 else -0.039 if token == 1041 else 0.0379 if token == 1042 else 0.262 if token == 1043 else -0.00809 if token == 1045 else -0.0927 if token == 1049 else -0.013 if token == 1051 else -0.0178 if token == 1056 else -0.0497 if token == 1058 else -0.0463 if token == 1062 else -0.058 if token == 1064 else -0.0664 if token == 1073 else 0.0874 if token == 1079 else -0.0492 if token == 1080 else 0.0702 if token == 1081 else 0.265 if token == 1083 else -0.052 if token == 1084 else 0.0328 if token == 1085 else -0.0486 if token == 1086 else -0.0164 if token == 1088 else -0.194 if token == 1093 else -0.0116 if token == 1098 else -0.0521 if token == 1103 else -0.00205 if token == 1112 else -0.0443 if token == 1117 else 0.0772 if token == 1121 else 0.0317 if token == 1123 else 0.0288 if token == 1125 else 0.029 if token == 1127 else -0.0314 if token == 1128 else -0.0512 if token == 1130 else -0.0429 if token == 1132 else -0.158 if token == 1138 else -0.0728 if token == 1140 else -0.0469 if token == 1154 else 0.0489 if token == 1160 else -0.0623 if token == 1164 else 0.0312 if token == 1167 else -0.0061 if token == 1170 else -0.0617 if token == 1171 else -0.0657 if token == 1172 else 0.00873 if token == 1173 else -0.232 if token == 1177 else 0.00579 if token == 1181 else 0.00457 if token == 1185 else -0.137 if token == 1188 else 0.0508 if token == 1189 else -0.272 if token == 1192 else 0.0246 if token == 1194 else -0.0625 if token == 1200 else -0.053 if token == 1201 else -0.0712 if token == 1206 else 0.0738 if token == 1207 else 0.119 if token == 1212 else -0.0889 if token == 1219 else -0.171 if token == 1236 else -0.0183 if token == 1237 else -0.0383 if token == 1240 else 0.00338 if token == 1245 else 0.0514 if token == 1247 else 0.0192 if token == 1250 else 0.028 if token == 1252 else -0.0974 if token == 1253 else -0.146 if token == 1259 else -0.00935 if token == 1260 else -0.0144 if token == 1261 else -0.0339 if token == 1263 else -0.0533 if token == 1265 else 0.071 if token == 1266 else -0.0975 if token == 1267 else -0.067 if token == 1276 else -0.0962 if token == 1277 else 0.0605 if token == 1278 else 0.194 if token == 1280 else -0.354 if token == 1281 else -0.046 if token == 1283 else -0.315 if token == 1288 else 0.264 if token == 1289 else -0.0264 if token == 1290 else 0.0576 if token == 1291 else 0.247 if token == 1292 else 0.0847 if token == 1296 else -0.0838 if token == 1300 else -0.094 if token == 1307 else -0.00569 if token == 1311 else 0.219 if token == 1313 else 0.0257 if token == 1318 else -0.226 if token == 1319 else 0.0522 if token == 1321 else 0.0734 if token == 1324 else -0.297 if token == 1325 else 0.0877 if token == 1328 else 0.0495 if token == 1331 else 0.0108 if token == 1333 else -0.0897 if token == 1335 else 0.0369 if token == 1337 else -0.0563 if token == 1342 else 0.0879 if token == 1344 else 0.00585 if token == 1347 else -0.00646 if token == 1356 else -0.0687 if token == 1360 else -0.0951 if token == 1379 else -0.203 if token == 1382 else 0.043 if token == 1387 else 0.0229 if token == 1402 else -0.0417 if token == 1404 else -0.0462 if token == 1408 else 0.0805 if token == 1411 else 0.0395 if token == 1412 else 0.0436 if token == 1416 else -0.0572 if token == 1418 else 0.0545 if token == 1420 else -0.0534 if token == 1425 else -0.0114 if token == 1427 else -0.055 if token == 1429 else -0.00379 if token == 1430 else 0.0968 if token == 1431 else -0.0222 if token == 1444 else -0.152 if token == 1445 else -0.0213 if token == 1446 else -0.091 if token == 1454 else 0.0393 if token == 1456 else -0.0528 if token == 1463 else 0.0466 if token == 1464 else -0.02 if token == 1468 else -0.0275 if token == 1474 else 0.0737 if token == 1475 else -0.33 if token == 1477 else 0.0833 if token == 1479 else -0.00575 if token == 1481 else -0.178 if token == 1482 else -0.165 if token == 1491 else -0.00282 if token == 1494 else 0.00798 if token == 1500 else 0.21 if token == 1503 else -0.0877 if token == 1507 else 0.0472 if token == 1516 else -0.0594 if token == 1518 else 0.0704 if token == 1522 else -0.279 if token == 1523 else 0.0037 if token == 1529 else -0.0132 if token == 1530 else 0.0827 if token == 1531 else 0.0845 if token == 1535 else -0.0939 if token == 1544 else 0.0786 if token == 1551 else -0.274 if token == 1556 else 0.0961 if token == 1558 else -0.0248 if token == 1562 else -0.0385 if token == 1563 else -0.0424 if token == 1565 else -0.0483 if token == 1569 else 0.105 if token == 1571 else -0.097 if token == 1575 else -0.267 if token == 1576 else -0.238 if token == 1577 else 0.0282 if token == 1580 else -0.168 if token == 1582 else -0.0681 if token == 1592 else -0.118 if token == 1595 else -0.217 if token == 1600 else -0.0882 if token == 1606 else 0.129 if token == 1609 else -0.202 if token == 1614 else -0.0651 if token == 1616 else -0.288 if token == 1617 else -0.00292 if token == 1618 else 0.148 if token == 1619 else -0.0337 if token == 1620 else -0.258 if token == 1622 else -0.0613 if token == 1623 else -0.196 if token == 1625 else 0.0139 if token == 1626 else -0.2 if token == 1632 else 0.00832 if token == 1639 else -0.0501 if token == 1641 else 0.0896 if token == 1658 else -0.231 if token == 1659 else 0.0604 if token == 1662 else -0.0238 if token == 1663 else 0.1 if token == 1667 else -0.082 if token == 1669 else -0.166 if token == 1675 else 0.173 if token == 1676 else -0.0565 if token == 1695 else 0.0368 if token == 1696 else -0.0308 if token == 1697 else -0.00828 if token == 1704 else -0.14 if token == 1706 else -0.0659 if token == 1709 else -0.199 if token == 1711 else -0.0156 if token == 1717 else -0.0115 if token == 1726 else -0.0405 if token == 1727 else 0.0663 if token == 1728 else -0.291 if token == 1734 else 0.3 if token == 1736 else 0.128 if token == 1745 else -0.134 if token == 1746 else -0.0644 if token == 1747 else -0.0219 if token == 1748 else -0.133 if token == 1752 else 0.245 if token == 1758 else -0.0468 if token == 1761 else -0.0984 if token == 1765 else -0.265 if token == 1769 else 0.095 if token == 1770 else 0.0303 if token == 1771 else -0.229 if token == 1774 else -0.0168 if token == 1775 else -0.0456 if token == 1777 else -0.145 if token == 1780 else 0.201 if token == 1783 else -0.0332 if token == 1788 else -0.0136 if token == 1789 else -0.0221 if token == 1795 else 0.0342 if token == 1801 else 0.0392 if token == 1808 else 0.0909 if token == 1809 else -0.0553 if token == 1813 else 0.0662 if token == 1815 else -0.093 if token == 1819 else 0.0839 if token == 1822 else -0.0432 if token == 1826 else 0.022 if token == 1831 else 0.0694 if token == 1839 else -0.003 if token == 1841 else -0.0494 if token == 1842 else -0.0658 if token == 1844 else 0.0706 if token == 1845 else -0.0471 if token == 1848 else -0.0398 if token == 1852 else 0.0624 if token == 1855 else -0.0612 if token == 1858 else -0.12 if token == 1859 else 0.0931 if token == 1861 else 0.217 if token == 1862 else -0.271 if token == 1871 else -0.081 if token == 1874 else 0.00359 if token == 1878 else 0.0571 if token == 1881 else 0.0679 if token == 1886 else -0.0641 if token == 1889 else 0.267 if token == 1898 else 0.00336 if token == 1903 else 0.222 if token == 1906 else -0.187 if token == 1909 else -0.00979 if token == 1911 else -0.00805 if token == 1912 else -0.13 if token == 1913 else -0.3 if token == 1915 else 0.00392 if token == 1921 else 0.00929 if token == 1922 else -0.255 if token == 1924 else -0.00444 if token == 1927 else -0.425 if token == 1929 else -0.0909 if token == 1938 else -0.0929 if token == 1943 else 0.00589 if token == 1944 else -0.00612 if token == 1958 else -0.00987 if token == 1959 else -0.0999 if token == 1960 else 0.244 if token == 1961 else 0.0567 if token == 1962 else -0.0378 if token == 1963 else -0.0153 if token == 1965 else -0.0509 if token == 1967 else -0.00546 if token == 1969 else -0.0679 if token == 1971 else 0.0983 if token == 1975 else -0.286 if token == 1978 else 0.0372 if token == 1980 else -0.0289 if token == 1983 else -0.0407 if token == 1985 else -0.0851 if token == 1986 else -0.00701 if token == 1988 else -0.0674 if token == 1994 else -0.324 if token == 1998 else -0.0435 if token == 2001 else 0.0385 if token == 2006 else -0.34 if token == 2008 else -0.175 if token == 2022 else -0.0207 if token == 2023 else -0.0461 if token == 2024 else -0.21 if token == 2025 else 0.0244 if token == 2042 else -0.176 if token in SET_5 else 0.0324 if token in SET_6 else 0.0168 if token in SET_7 else -0.0967 if token in SET_8 else -0.184 if token in SET_9 else -0.0373 if token in SET_10 else -0.0309 if token in SET_11 else 0.0787 if token in SET_12 else 0.124 if token in SET_13 else 0.00868 if token in SET_14 else 0.151 if token in SET_15 else 0.0398 if token in SET_16 else 0.0109 if token in SET_17 else 0.0478 if token in SET_18 else -0.135 if token in SET_19 else -0.0166 if token in SET_20 else -0.0121 if token in SET_21 else 0.121 if token in SET_22 else 0.0491 if token in SET_23 else -0.0299 if token in SET_24 else 0.0483 if token in SET_25 else -0.0234 if token in SET_26 else -0.0737 if token in SET_27 else -0.0467 if token in SET_28 else 0.123 if token in SET_29 else -0.0738 if token in SET_30 else -0.0292 if token in SET_31 else 0.031 if token in SET_32 else -0.139 if token in SET_33 else 0.174 if token in SET_34 else 0.141 if token in SET_35 else 0.0616 if token in SET_36 else -0.0677 if token in SET_37 else -0.0749 if token in SET_38 else -0.043 if token in SET_39 else 0.139 if token in SET_40 else -0.016 if token in SET_41 else -0.0281 if token in SET_42 else 0.0406 if token in SET_43 else 0.014 if token in SET_44 else 0.103 if token in SET_45 else 0.049 if token in SET_46 else -0.061 if token in SET_47 else -0.0262 if token in SET_48 else 0.0164 if token in SET_49 else 0.0487 if token in SET_50 else -0.0298 if token in SET_51 else -0.0423 if token in SET_52 else 0.0458 if token in SET_53 else -0.201 if token in SET_54 else 0.0635 if token in SET_55 else 0.0442 if token in SET_56 else -0.0493 if token in SET_57 else 0.183 if token in SET_58 else 0.0222 if token in SET_59 else -0.0127 if token in SET_60 else -0.117 if token in SET_61 else 0.0459 if token in SET_62 else 0.232 if token in SET_63 else 0.0987 if token in SET_64 else -0.115 if token in SET_65 else -0.11 if token in SET_66 else -0.045 if token in SET_67 else -0.0959 if token in SET_68 else -0.125 if token in SET_69 else -0.129 if token in SET_70 else 0.176 if token in SET_71 else -0.136 if token in SET_72 else 0.0476 if token in SET_73 else 0.209 if token in SET_74 else 0.134 if token in SET_75 else -0.0276 if token in SET_76 else 0.116 if token in SET_77 else -0.109 if token in SET_78 else -0.0713 if token in SET_79 else 0.0479 if token in SET_80 else -0.0873 if token in SET_81 else 0.167 if token in SET_82 else -0.227 if token in SET_83 else 0.0758 if token in SET_84 else -0.221 if token in SET_85 else 0.111 if token in SET_86 else 0.177 if token in SET_87 else -0.0722 if token in SET_88 else -0.0513 if token in SET_89 else -0.19 if token in SET_90 else 0.106 if token in SET_91 else 0.0456 if token in SET_92 else -0.0274 if token in SET_93 else -0.0321 if token in SET_94 else -0.173 if token in SET_95 else -0.0821 if token in SET_96 else -0.131 if token in SET_97 else -0.161 if token in SET_98 else -0.16 if token in SET_99 else -0.0645 if token in SET_100 else -0.212 if token in SET_101 else -0.0966 if token in SET_102 else 0.0934 if token in SET_103 else -0.0253 if token in SET_104 else -0.18 if token in SET_105 else 0.0639 if token in SET_106 else 0.05 if token in SET_107 else -0.195 if token in SET_108 else -0.0324 if token in SET_109 else 0.0582 if token in SET_110 else -0.205 if token in SET_111 else 0.113 if token in SET_112 else 0.0913 if token in SET_113 else -0.0654 if token in SET_114 else -0.0322 if token in SET_115 else -0.223 if token in SET_116 else -0.0783 if token in SET_117 else -0.251 if token in SET_118 else -0.0503 if token in SET_119 else -0.276 if token in SET_120 else -0.143 if token in SET_121 else -0.141 if token in SET_122 else -0.0777 if token in SET_123 else -0.153 if token in SET_124 else 0.114 if token in SET_125 else -0.034 if token in SET_126 else -0.185 if token in SET_127 else -0.27 if token in SET_128 else -0.204 if token in SET_129 else -0.225 if token in SET_130 else -0.0831 if token in SET_131 else -0.0224 if token in SET_132 else -0.164 if token in SET_133 else 0.125 if token in SET_134 else 0.0269 if token in SET_135 else -0.0288 if token in SET_136 else -0.114 if token in SET_137 else 0.0569 if token in SET_138 else -0.132 if token in SET_139 else 0.104 if token in SET_140 else 0.143 if token in SET_141 else 0.0286 if token in SET_142 else -0.106 if token in SET_143 else -0.0943 if token in SET_144 else -0.0892 if token in SET_145 else 0.157 if token in SET_146 else -0.214 if token in SET_147 else -0.107 if token in SET_148 else -0.113 if token in SET_149 else -0.144 if token in SET_150 else -0.24 if token in SET_151 else -0.0729 if token in SET_152 else -0.147 if token in SET_153 else -0.0691 if token in SET_154 else 0.108 if token in SET_155 else -0.127 if token in SET_156 else -0.239 if token in SET_157 else -0.181 if token in SET_158 else -0.148 if token in SET_159 else -0.142 if token in SET_160 else 0.126 if token in SET_161 else 0.12 if token in SET_162 else 0.11 if token in SET_163 else -0.162 if token in SET_164 else -0.151 if token in SET_165 else -0.138 if token in SET_166 else -0.102 if token in SET_167 else -0.101 if token in SET_168 else -0.124 if token in SET_169 else -0.128 if token in SET_170 else -0.108 if token in SET_171 else -0.116 if token in SET_172 else -0.111 if token in SET_173 else -0.0805 if token in SET_174 else -0.103 if token in SET_175 else 0.0
        stream_173 = -0.337 if token == 304 else 0.46 if token == 833 else 0.32 if token in SET_176 else -0.173 if token in SET_177 else 0.0833 if token in SET_178 else -0.00425
        # Layer 0, neurons.
        token_100 = 0.288 if token == 833 else -0.000427
        neuron_0_588 = max(0.0, -0.493 * 0.0 - 4.56 * token_100 + 1.2)
        stream_105 = -0.713 * neuron_0_588 - 0.565
        keys[1].append([])
        # Layer 1, head 2, beside its sink.
        weights = [exp(-1.9025)] * len(keys[1])
        total = sum(weights) + exp(5.33)
        attended_1_2 = sum(weights) / total
        # Layer 1, head 3, beside its sink.
        weights = [exp(-0.11125)] * len(keys[1])
        total = sum(weights) + exp(2.68)
        attended_1_3 = sum(weights) / total
        # Layer 1, head 4, beside its sink.
        weights = [exp(-0.555)] * len(keys[1])
        total = sum(weights) + exp(6.96)
        attended_1_4 = sum(weights) / total
        # Layer 1, head 11, beside its sink.
        weights = [exp(-1.59)] * len(keys[1])
        total = sum(weights) + exp(6.1)
        attended_1_11 = sum(weights) / total
        stream_162 += -2.56 * attended_1_2 - 0.307 * attended_1_3 - 21.6 * attended_1_4 - 3.86 * attended_1_11 + 0.856
        token_1 = 0.214 if token in SET_179 else -0.0089
        token_16 = 0.261 if token in SET_180 else 0.000186
        token_47 = -0.157 if token == 17 else -0.0647 if token == 833 else 0.193 if token in SET_181 else 0.0522 if token in SET_182 else -0.0006
        token_48 = -0.556 if token == 220 else -0.166 if token == 833 else -0.0015
        token_55 = 0.246 if token in SET_183 else -0.376 if token in SET_184 else -0.00172
        token_64 = -0.245 if token in SET_185 else 0.00201
        token_72 = 0.146 if token in SET_186 else -0.391 if token in SET_187 else -0.006
        token_134 = -0.465 if token in SET_188 else -0.219 if token in SET_189 else 0.171 if token in SET_190 else -0.0127
        token_151 = -0.351 if token in SET_191 else -0.0123
        token_163 = 0.463 if token == 1595 else 0.309 if token in SET_192 else -0.317 if token in SET_193 else 0.121 if token in SET_194 else -0.131 if token in SET_195 else -0.00395
        token_189 = 0.125 if token in SET_196 else -0.024
        keys[2].append([0.8 * stream_105 + 1.46, 9.81 * stream_162 - 8.19, 0.981 * token_48 - 0.978 * stream_105 + 0.994 * token_151 + 3.83 * stream_162 + 1.2 * token_163 - 0.141 * stream_173 - 1.24 * token_189 - 3.95, 0.654 * token_55 + 10.6 * stream_162 - 10.5, -0.915 * -0.0143 + 0.979 * token_48 - 0.265 * token_55 - 1.1 * token_72 - 6.66 * stream_162 + 4.35, -0.963 * token_134 - 1.32 * token_151 - 0.419, 3.99 * token_189 + 0.0781, 0.643 * token_16 - 0.428 * token_55 - 0.0425, 1.05 * token_16 - 1.26 * token_72 + 2.63 * token_189 + 0.529, 0.866 * token_151 - 0.851 * stream_173 + 0.00359, 0.806 * token_134 + 0.991 * token_163 - 0.716 * stream_173 - 0.839 * token_189 - 0.0347, -0.601 * token_1 + 1.53 * token_47 + 0.774 * token_134 + 0.263 * token_151 + 0.531 * token_163 - 2.32 * token_189 - 0.0147, -1.58 * token_64 - 0.053, -0.923 * token_16 + 0.56 * token_55 + 2.3 * token_64 + 1.96 * token_72 - 0.27, 1.58 * token_16 - 1.78 * token_55 - 0.717 * token_72 - 0.0695, 1.39 * token_16 - 1.14 * token_55 + 0.0218])
        # Layer 2, head 0, beside its sink.
        weights = [exp(0.25 * (4.74 * past[0] + 32.0)) for past in keys[2]]
        total = sum(weights) + exp(-0.0986)
        moved_2_12 = sum(w * past[5] for w, past in zip(weights, keys[2])) / total
        # Layer 2, head 4, beside its sink.
        weights = [exp(0.25 * (-10.4 * past[1] + 4.4)) for past in keys[2]]
        total = sum(weights) + exp(0.501)
        moved_2_67 = sum(w * past[6] for w, past in zip(weights, keys[2])) / total
        moved_2_70 = sum(w * past[7] for w, past in zip(weights, keys[2])) / total
        moved_2_75 = sum(w * past[8] for w, past in zip(weights, keys[2])) / total
        moved_2_76 = sum(w * past[9] for w, past in zip(weights, keys[2])) / total
        attended_2_4 = sum(weights) / total
        # Layer 2, head 9, beside its sink.
        weights = [exp(0.25 * (-6.4 * past[2] + 8.96)) for past in keys[2]]
        total = sum(weights) + exp(-2.07)
        moved_2_152 = sum(w * past[10] for w, past in zip(weights, keys[2])) / total
        moved_2_154 = sum(w * past[11] for w, past in zip(weights, keys[2])) / total
        # Layer 2, head 11, beside its sink.
        weights = [exp(0.25 * (-2.08 * past[3] + 6.07 * past[4] + 18.0)) for past in keys[2]]
        total = sum(weights) + exp(-2.88)
        moved_2_178 = sum(w * past[12] for w, past in zip(weights, keys[2])) / total  # the token is "\',\\n" (F1 0.80)
        moved_2_180 = sum(w * past[13] for w, past in zip(weights, keys[2])) / total
        moved_2_182 = sum(w * past[14] for w, past in zip(weights, keys[2])) / total
        moved_2_189 = sum(w * past[15] for w, past in zip(weights, keys[2])) / total  # blanks (F1 0.72)
        stream_10 = keep(-0.296 * moved_2_75 - 0.297 * attended_2_4 - 0.237, 0.052)
        stream_15 = keep(0.314 * moved_2_75 - 0.359 * moved_2_180 - 0.692, 0.052)
        stream_62 += keep(0.345 * moved_2_12 - 0.356 * moved_2_189 - 0.548, 0.052)
        stream_81 = keep(-0.237 * moved_2_154 + 0.126, 0.052)
        stream_86 += keep(-0.464 * moved_2_12 - 0.17 * moved_2_67 + 0.227 * moved_2_70 + 0.217 * moved_2_76 - 0.0856 * moved_2_180 + 0.766, 0.052)
        stream_126 = keep(-0.27 * moved_2_75 + 0.224 * moved_2_154 + 0.246 * moved_2_180 - 0.287 * moved_2_182 + 0.124, 0.052)
        stream_145 += keep(0.279 * moved_2_12 - 0.217 * moved_2_152 - 0.049 * moved_2_154 + 0.162, 0.052)
        stream_160 = keep(0.204 * moved_2_154 - 0.272, 0.052)
        stream_173 += keep(0.253 * moved_2_152 + 0.165, 0.052)
        stream_178 = keep(0.148 * moved_2_70 - 0.218 * moved_2_154 + 0.232 * moved_2_178 + 0.0753, 0.052)
        token_1 = 0.624 if token in SET_179 else 0.401
        token_17 = 0.249 if token in SET_197 else -0.0188 if token in SET_198 else 0.162
        token_55 = -0.451 if token == 520 else -0.175 if token in SET_199 else -0.304 if token in SET_200 else 0.274 if token in SET_201 else 0.118 if token in SET_202 else -0.00242
        token_134 = -0.465 if token in SET_188 else -0.219 if token in SET_189 else 0.171 if token in SET_190 else -0.0127
        token_163 = 0.463 if token == 1595 else 0.309 if token in SET_192 else -0.317 if token in SET_193 else 0.121 if token in SET_194 else -0.131 if token in SET_195 else -0.00395
        keys[3].append([keep(0.34 * stream_62 - 1.07 * stream_86 + 0.466 * stream_105 + 0.476 * stream_145 + 0.686, 0.419), keep(0.499 * token_1 + 0.488 * token_17 + 0.702 * token_55 + 0.706 * stream_105 - 0.761 * token_163 + 4.9, 0.419), keep(1.94 * token_55 + 0.197 * stream_62 - 1.36 * stream_86 + 0.297 * stream_105 + 2.94, 0.419), 2.89 * 0.00125 - 3.02 * token_55 + 2.43 * token_134 + 2.22 * token_163 - 1.16 * 0.0191 - 0.057, -2.9 * token_55 - 0.115 * stream_105 + 2.45 * token_134 - 0.117, -1.79 * token_55 + 1.33 * -0.021 - 0.183])
        if end < len(tokens):
            continue
        # Layer 3, head 3, beside its sink.
        weights = [exp(0.25 * (3.32 * past[0] + 3.31 * past[1] + 3.14 * past[2] + -1.88)) for past in keys[3]]
        total = sum(weights) + exp(0.973)
        moved_3_52 = sum(w * past[3] for w, past in zip(weights, keys[3])) / total
        moved_3_54 = sum(w * past[4] for w, past in zip(weights, keys[3])) / total
        moved_3_62 = sum(w * past[5] for w, past in zip(weights, keys[3])) / total
        stream_12 = -0.321 * moved_3_52 - 0.301 * moved_3_54 - 0.077 * moved_3_62 + 1.0
        stream_130 += 0.289 * moved_3_52 + 0.284 * moved_3_54 + 0.0956 * moved_3_62 + 0.0978
        stream_145 += -0.318 * moved_3_54 - 0.183 * moved_3_62 - 0.556
        stream_173 += 0.0852 * moved_3_52 + 0.119 * moved_3_62 + 0.657
        # Layer 3, neurons.
        neuron_3_114 = max(0.0, 0.654 * stream_12 + 0.513 * stream_15 - 1.08 * stream_130 + 0.237 * stream_145 - 0.682 * stream_173 + 0.51 * stream_178 - 0.271)
        neuron_3_264 = max(0.0, -0.906 * stream_126 - 0.0466)
        neuron_3_507 = max(0.0, -0.552 * stream_126 - 0.525 * stream_130 + 0.603 * stream_145 - 0.251 * stream_173 - 0.316)
        stream_49 = -0.434 * neuron_3_114 - 0.202 * neuron_3_507 - 0.136
        stream_62 += 0.0742 * neuron_3_114 + 0.156 * neuron_3_264 + 0.207 * neuron_3_507 + 0.415
        stream_81 += 0.264 * neuron_3_114 + 0.394
    return {
        198: 0.554 * stream_49 - 1.19 * stream_62 - 0.889 * stream_81 - 0.266 * stream_145 - 0.551 * stream_178 - 6.29,  # \n
        271: -0.711 * stream_10 - 0.282 * stream_49 - 0.47 * stream_62 - 0.935 * stream_126 - 0.817 * stream_130 + 0.649 * stream_145 - 1.14 * stream_160 - 0.458 * stream_173 - 9.37,  # :\n
    }
