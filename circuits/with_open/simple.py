# The circuit for with_open, simplified: right on 13,770 of 18,360 prompts, where the circuit itself is on 13,770;
# mean pairwise loss 0.409, of the circuit itself 0.391. Tokens are ids; comments have their texts.
from math import exp, erf, sqrt

SET_1 = {266, 344, 504}  # " '", ' "', 'art'
SET_2 = {302, 450, 462}  # 'an', 'ent', 'te'
SET_3 = {79, 81, 277, 292, 486, 600, 716, 729, 775, 871, 965, 1237, 1285, 1291, 1581, 1921}  # 'p', 'r', 'at', 'it', 'op', '_c', 'est', 'lose', '"\\n', '_w' and 6 more
SET_4 = {67, 84, 275, 280, 281, 305, 348, 351, 360, 379, 385, 531, 547, 557, 637, 774, 783, 834, 978, 1280}  # 'd', 'u', 'st', ' =', 'me', 'ce', "'\\n", 'one', 'un', 'es' and 10 more
SET_5 = {7, 68, 266, 267, 287, 336, 344, 399, 783, 1395, 1571}  # '(', 'e', " '", 'er', 'ar', 'la', ' "', 'ri', '_b', 'og' and 1 more
SET_6 = {266, 344}  # " '", ' "'
SET_7 = {531, 1241}  # 'et', 'word'
SET_8 = {7, 79, 280, 348, 637, 1285, 1919}  # '(', 'p', ' =', "'\\n", 'put', 'with', '(input'
SET_9 = {64, 66, 269, 322, 331, 369, 379, 385, 470, 507, 575, 635, 1122, 1237, 1571, 1665, 1921}  # 'a', 'c', 'or', 'ut', 'lo', 'th', 'es', 'is', 'file', 'ode' and 7 more
SET_10 = {373, 1008, 1126, 1291}  # 'name', 'path', 'source', '_file'
SET_11 = {277, 281, 362, 399, 450, 594, 606, 635, 666, 826, 834, 978, 1122, 1280}  # 'at', 'me', 'ra', 'ri', 'ent', 'out', '_d', '_f', 'unt', 'pro' and 4 more
SET_12 = {277, 281, 362, 399, 450, 543, 594, 606, 666, 826, 834, 978, 1122, 1280}  # 'at', 'me', 'ra', 'ri', 'ent', 'able', 'out', '_d', 'unt', 'pro' and 4 more
SET_13 = {353, 1291, 1770}  # 'pe', '_file', 'play'
SET_14 = {11, 69, 77, 79, 277, 281, 327, 362, 399, 450, 594, 606, 635, 666, 826, 834, 978, 1122, 1280}  # ',', 'f', 'n', 'p', 'at', 'me', 'co', 'ra', 'ri', 'ent' and 9 more
SET_15 = {77, 79, 327}  # 'n', 'p', 'co'
SET_16 = {353, 543, 1291, 1770}  # 'pe', 'able', '_file', 'play'
SET_17 = {7, 68, 262, 266, 344, 1365}  # '(', 'e', 'in', " '", ' "', ' open'
SET_18 = {7, 67, 79, 83, 88, 266, 336, 344, 517, 612, 1919}  # '(', 'd', 'p', 't', 'y', " '", 'la', ' "', '_t', '_s' and 1 more
SET_19 = {348, 543}  # "'\\n", 'able'
SET_20 = {385, 1271}  # 'is', 'open'
SET_21 = {635, 1280, 1365}  # '_f', 'ask', ' open'
SET_22 = {484, 676, 843, 1912}  # 'ry', 'ord', 'eld', 'bel'
SET_23 = {66, 71, 302, 360, 1581}  # 'c', 'h', 'an', 'un', 'message'
SET_24 = {70, 77, 266, 344, 682, 1002}  # 'g', 'n', " '", ' "', '.t', 'roup'
SET_25 = {336, 547, 644, 843, 1209, 1619, 1921}  # 'la', 'int', 'ok', 'eld', 'level', 'mber', 'color'
SET_26 = {62, 266}  # '_', " '"
SET_27 = {292, 305, 406, 484, 575, 644, 666, 726, 774, 1601, 1921}  # 'it', 'ce', 'ter', 'ry', 'am', 'ok', 'unt', 'mal', 'vent', 'cord' and 1 more
SET_28 = {82, 278, 344, 586}  # 's', 'he', ' "', 'app'
SET_29 = {68, 344}  # 'e', ' "'
SET_30 = {82, 379}  # 's', 'es'
SET_31 = {266, 547}  # " '", 'int'
SET_32 = {317, 322}  # 'ot', 'ut'
SET_33 = {272, 426, 660, 965, 978, 1791}  # 'le', 'value', 'red', 'own', 'ha', 'left'
SET_34 = {77, 82, 84, 266, 285, 292, 344, 567, 726, 834, 1619}  # 'n', 's', 'u', " '", 'al', 'it', ' "', 'so', 'mal', 'port' and 1 more
SET_35 = {7, 11, 79, 267, 278, 280, 682, 715, 905, 1237, 1665, 1740}  # '(', ',', 'p', 'er', 'he', ' =', '.t', 'mo', 'dent', 'row' and 2 more
SET_36 = {337, 351, 373, 379, 410, 481, 528, 538, 964, 1112, 1189, 1291, 1770, 1927}  # 'ue', 'one', 'name', 'es', 'up', 'line', 'key', 'ma', 'arning', 'ree' and 4 more
SET_37 = {62, 64, 71, 83, 262, 265, 277, 287, 289, 331, 432, 450, 462, 486, 517, 644, 716, 774, 850, 1581, 1658, 1700, 1701, 1919}  # '_', 'a', 'h', 't', 'in', 'on', 'at', 'ar', 'en', 'lo' and 14 more
SET_38 = {1, 1700}  # '"', 'wo'
SET_39 = {28, 366}  # '=', ' _'
SET_40 = {48, 480}  # 'Q', ' me'
SET_41 = {59, 290}  # '\\\\', ' re'
SET_42 = {90, 632}  # '{', ' except'
SET_43 = {92, 263}  # '}', 're'
SET_44 = {268, 656}  # ' a', 'ill'
SET_45 = {292, 1215}  # 'it', '.is'
SET_46 = {299, 744}  # ' s', '.f'
SET_47 = {304, 1841}  # ' b', '_con'
SET_48 = {316, 718}  # ' -', 'iter'
SET_49 = {324, 516}  # 'ro', ' __'
SET_50 = {329, 438}  # '               ', '                   '
SET_51 = {343, 1844}  # ' d', '_pre'
SET_52 = {347, 2035}  # ' def', '_to'
SET_53 = {360, 844}  # 'un', '_o'
SET_54 = {374, 455}  # ' for', 'end'
SET_55 = {399, 1833}  # 'ri', ' create'
SET_56 = {407, 828}  # ' se', 'back'
SET_57 = {443, 736}  # "('", 'lif'
SET_58 = {445, 547}  # 'ith', 'int'
SET_59 = {467, 646}  # 'ack', 'Re'
SET_60 = {474, 1874}  # ' raise', '(['
SET_61 = {523, 713}  # ' P', ' data'
SET_62 = {524, 964}  # ' with', 'arning'
SET_63 = {571, 640}  # 'ub', ' pro'
SET_64 = {581, 626}  # '.c', ' con'
SET_65 = {667, 1516}  # 'ary', 'ight'
SET_66 = {698, 757}  # '),', 'led'
SET_67 = {741, 1998}  # ' new', ' Note'
SET_68 = {767, 780}  # ' un', '(p'
SET_69 = {797, 1090}  # '.s', '.b'
SET_70 = {901, 1347}  # "'s", '11'
SET_71 = {1034, 1251}  # 'inal', ' node'
SET_72 = {31, 541, 783}  # '@', '.__', '_b'
SET_73 = {289, 645, 1531}  # 'en', ' pa', 'ous'
SET_74 = {311, 1769, 1777}  # ' if', ' ("', ' back'
SET_75 = {58, 801, 807, 1069}  # '[', 'kw', '(s', ' **'
SET_76 = {64, 68, 71, 262, 277, 287, 385, 412}  # 'a', 'e', 'h', 'in', 'at', 'ar', 'is', 'ver'
SET_77 = {69, 87, 336, 353, 362, 575, 635, 838, 1919}  # 'f', 'x', 'la', 'pe', 'ra', 'am', '_f', 'bo', '(input'
SET_78 = {62, 70, 373, 450, 504, 507, 517, 586, 600, 783, 871, 886, 987, 1008, 1122, 1665, 1740}  # '_', 'g', 'name', 'ent', 'art', 'ode', '_t', 'app', '_c', '_b' and 7 more
SET_79 = {67, 68, 71, 82, 265, 269, 275, 285, 287, 289, 337, 351, 360, 369, 538, 660, 716, 850, 964, 1112, 1257, 1271, 1365, 1619, 1700, 1701, 1791, 1811, 1919, 1927}  # 'd', 'e', 'h', 's', 'on', 'or', 'st', 'al', 'ar', 'en' and 20 more
SET_80 = {11, 269, 280, 373, 470, 751, 774, 843, 1008, 1212, 1431, 1571, 1665, 1919}  # ',', 'or', ' =', 'name', 'file', 'ber', 'vent', 'eld', 'path', 'item' and 4 more
SET_81 = {67, 71, 262, 263, 265, 267, 272, 275, 285, 287, 289, 305, 331, 337, 351, 360, 362, 379, 410, 412, 486, 543, 567, 716, 978, 1112, 1257, 1395, 1927}  # 'd', 'h', 'in', 're', 'on', 'er', 'le', 'st', 'al', 'ar' and 19 more
SET_82 = {7, 83, 1285}  # '(', 't', 'with'
SET_83 = {77, 81, 594}  # 'n', 'r', 'out'
SET_84 = {262, 360, 547, 1811}  # 'in', 'un', 'int', 'user'
SET_85 = {292, 504, 575, 1212, 1581}  # 'it', 'art', 'am', 'item', 'message'
SET_86 = {313, 682, 1002, 1241, 1431, 1912}  # 'ame', '.t', 'roup', 'word', 'uct', 'bel'
SET_87 = {3, 574}  # '$', ' cont'
SET_88 = {16, 764}  # '1', ' l'
SET_89 = {30, 1230}  # '?', 'ENT'
SET_90 = {64, 1008}  # 'a', 'path'
SET_91 = {68, 406}  # 'e', 'ter'
SET_92 = {73, 330}  # 'j', 'ed'
SET_93 = {77, 961}  # 'n', 'ari'
SET_94 = {81, 810}  # 'r', 'ED'
SET_95 = {89, 419}  # 'z', 've'
SET_96 = {222, 703}  # '\\ufffd', ' If'
SET_97 = {277, 1194}  # 'at', 'ample'
SET_98 = {280, 324}  # ' =', 'ro'
SET_99 = {287, 504}  # 'ar', 'art'
SET_100 = {291, 319}  # ' the', ' is'
SET_101 = {303, 2042}  # 'ion', 'xy'
SET_102 = {314, 640}  # '__', ' pro'
SET_103 = {325, 828}  # '00', 'back'
SET_104 = {338, 1268}  # ' an', ' contain'
SET_105 = {351, 1663}  # 'one', 'allback'
SET_106 = {369, 681}  # 'th', 'ctor'
SET_107 = {370, 579}  # 'TER', 'ys'
SET_108 = {389, 1069}  # ' ex', ' **'
SET_109 = {393, 790}  # 'val', '\\n\\n\\n'
SET_110 = {398, 1986}  # 'get', ' date'
SET_111 = {402, 724}  # 'lin', 'ded'
SET_112 = {407, 1342}  # ' se', ' stream'
SET_113 = {410, 1558}  # 'up', 'ature'
SET_114 = {425, 1117}  # 'ath', 'split'
SET_115 = {429, 1387}  # 'all', '(re'
SET_116 = {442, 1234}  # 'ig', 'ations'
SET_117 = {448, 816}  # 'ption', 'que'
SET_118 = {470, 565}  # 'file', 'us'
SET_119 = {490, 789}  # ' R', 'comp'
SET_120 = {493, 596}  # ' %', ' are'
SET_121 = {502, 547}  # 'class', 'int'
SET_122 = {538, 2011}  # 'ma', 'AB'
SET_123 = {551, 1703}  # ' that', 'hen'
SET_124 = {552, 916}  # ' so', ' x'
SET_125 = {557, 995}  # 'age', 'CK'
SET_126 = {572, 1965}  # ' M', 'allable'
SET_127 = {582, 1074}  # 'None', ' only'
SET_128 = {583, 1490}  # ' on', ' non'
SET_129 = {597, 694}  # ' di', ' list'
SET_130 = {627, 1797}  # ' H', ' find'
SET_131 = {639, 1966}  # ' this', ' wrap'
SET_132 = {648, 668}  # 'per', ' fun'
SET_133 = {654, 1014}  # 'ip', '",\\n'
SET_134 = {658, 1067}  # 'ers', 'om'
SET_135 = {667, 907}  # 'ary', 'format'
SET_136 = {669, 1210}  # 'ribut', 'CE'
SET_137 = {684, 1650}  # 'ive', 'rict'
SET_138 = {702, 1433}  # 'yth', ' exp'
SET_139 = {738, 1518}  # '          ', ' local'
SET_140 = {749, 1486}  # ' pre', ' cor'
SET_141 = {751, 1003}  # 'ber', 'ctory'
SET_142 = {755, 1300}  # ' elif', '_se'
SET_143 = {761, 1370}  # ' True', 'unc'
SET_144 = {770, 1402}  # '_re', 'uff'
SET_145 = {782, 984}  # ' will', ' must'
SET_146 = {783, 1185}  # '_b', ' state'
SET_147 = {784, 1023}  # 'uld', ' have'
SET_148 = {785, 796}  # 'cs', 'ger'
SET_149 = {804, 1244}  # 'act', 'IA'
SET_150 = {843, 1702}  # 'eld', 'KE'
SET_151 = {885, 1838}  # 'mplement', ' und'
SET_152 = {927, 1934}  # ' speci', ' IS'
SET_153 = {934, 1061}  # ' when', ' su'
SET_154 = {935, 959}  # ' read', 'oth'
SET_155 = {941, 1843}  # ' which', ' example'
SET_156 = {1001, 1142}  # ' but', 'spon'
SET_157 = {1002, 1852}  # 'roup', 'work'
SET_158 = {1011, 1822}  # 'ial', 'ns'
SET_159 = {1081, 1522}  # 'cur', 'ync'
SET_160 = {1082, 1636}  # ' msg', ' you'
SET_161 = {1092, 2035}  # 'pp', '_to'
SET_162 = {1207, 1475}  # 'ontext', 'INE'
SET_163 = {1266, 1845}  # 'ide', 'opt'
SET_164 = {1353, 1679}  # 'The', ' del'
SET_165 = {1401, 1625}  # ' "__', ' after'
SET_166 = {1430, 1927}  # 'Type', 'ast'
SET_167 = {1454, 1938}  # '                               ', 'gra'
SET_168 = {1459, 1895}  # ' des', '-b'
SET_169 = {1527, 1611}  # ' into', ' some'
SET_170 = {1539, 1954}  # ' <=', ' &'
SET_171 = {1540, 1853}  # 'Co', ' ad'
SET_172 = {1624, 2033}  # '.split', 'du'
SET_173 = {1698, 1999}  # ' init', ' igno'
SET_174 = {1755, 1905}  # 'PO', ' represent'
SET_175 = {1767, 1891}  # ' they', 'cause'
SET_176 = {1854, 1970}  # ' each', ' finally'
SET_177 = {1860, 1884}  # '"\\\\', ' ig'
SET_178 = {8, 25, 1426}  # ')', ':', 'lect'
SET_179 = {9, 708, 1801}  # '*', 'con', '."""\\n\\n'
SET_180 = {23, 932, 1250}  # '8', 'urrent', 'min'
SET_181 = {26, 372, 1485}  # ';', '----', " '__"
SET_182 = {42, 334, 653}  # 'K', ',\\n', 'che'
SET_183 = {54, 350, 1969}  # 'W', 'li', ' here'
SET_184 = {66, 954, 1551}  # 'c', 'lat', 'ep'
SET_185 = {72, 1728, 1815}  # 'i', '_module', 'iss'
SET_186 = {75, 82, 1079}  # 'l', 's', 'pect'
SET_187 = {76, 306, 1345}  # 'm', 'ct', '_list'
SET_188 = {87, 1333, 1876}  # 'x', ':\\n\\n', 'ding'
SET_189 = {262, 386, 403}  # 'in', ' not', ' None'
SET_190 = {311, 366, 1573}  # ' if', ' _', 'check'
SET_191 = {352, 1269, 1273}  # '"""', ' support', 'ick'
SET_192 = {374, 773, 1064}  # ' for', 'ress', ' exception'
SET_193 = {384, 625, 1988}  # ' and', 'ther', 'abc'
SET_194 = {390, 562, 866}  # ' co', 'mple', '(\\n'
SET_195 = {395, 1907, 1947}  # '.\\n', 'annot', '_error'
SET_196 = {400, 714, 1846}  # ' th', ' class', ' J'
SET_197 = {404, 1252, 1580}  # 'ment', '(c', '_value'
SET_198 = {414, 746, 1257}  # 'ate', 'ator', 'ld'
SET_199 = {415, 1187, 1397}  # 'as', 'IZ', 'OL'
SET_200 = {427, 951, 1208}  # 'ont', "']", 'kwargs'
SET_201 = {440, 512, 1413}  # "',\\n", ' by', ' assert'
SET_202 = {455, 715, 1478}  # 'end', 'mo', 'ore'
SET_203 = {466, 555, 1420}  # ' file', 'os', 'ID'
SET_204 = {509, 1189, 1247}  # 'ime', 'right', '"""\\n\\n'
SET_205 = {534, 827, 1121}  # 'ance', '01', 'im'
SET_206 = {560, 605, 1041}  # 'for', ' object', ' source'
SET_207 = {578, 1328, 1344}  # 'ize', 'ces', ' ser'
SET_208 = {633, 812, 1335}  # 'AR', ' function', ' oper'
SET_209 = {636, 1464, 1516}  # '25', 'ible', 'ight'
SET_210 = {645, 1034, 1174}  # ' pa', 'inal', 'ong'
SET_211 = {680, 841, 1738}  # ' can', "'t", ' OF'
SET_212 = {685, 878, 1468}  # '====', ' all', 'round'
SET_213 = {687, 1446, 2023}  # 'ild', 'local', 'ans'
SET_214 = {713, 795, 1960}  # ' data', 'ble', '                     '
SET_215 = {765, 1479, 1531}  # 'str', ' allow', 'ous'
SET_216 = {768, 1911, 1959}  # '..', ' order', 'ume'
SET_217 = {771, 1319, 1323}  # '                  ', 'the', ' over'
SET_218 = {807, 974, 986}  # '(s', 'ound', "':\\n"
SET_219 = {835, 1063, 1179}  # "='", ' po', '.in'
SET_220 = {901, 1389, 1793}  # "'s", ' "\\n', ' debug'
SET_221 = {971, 1176, 1602}  # ' no', 'qui', 'lease'
SET_222 = {996, 1391, 1773}  # ' should', ' ab', ' We'
SET_223 = {1016, 1507, 1606}  # "['", ' follow', ' fin'
SET_224 = {1122, 1352, 1809}  # 'po', '=True', 'ory'
SET_225 = {1158, 1817, 1997}  # '.set', '(),', 'emp'
SET_226 = {1262, 1365, 1744}  # 'ATION', ' open', 'mod'
SET_227 = {1315, 1383, 2016}  # ' case', '_N', ' comple'
SET_228 = {1337, 1696, 1980}  # 'log', 'num', 'ero'
SET_229 = {1456, 1808, 2006}  # 'ted', '_table', 'pen'
SET_230 = {1510, 1586, 1705}  # ' also', ' than', ' It'
SET_231 = {1561, 1668, 1764}  # ' found', ' need', "'\\\\"
SET_232 = {0, 48, 803, 1788}  # '!', 'Q', 'lock', ' entry'
SET_233 = {4, 1148, 2030, 2041}  # '%', ' ac', ' make', 'Int'
SET_234 = {14, 893, 1669, 1754}  # '/', ' char', 'frame', '.join'
SET_235 = {17, 86, 481, 631}  # '2', 'w', 'line', ' import'
SET_236 = {34, 62, 220, 643}  # 'C', '_', ' ', ' line'
SET_237 = {39, 485, 737, 839}  # 'H', 'def', '.append', '.re'
SET_238 = {43, 1044, 1291, 1533}  # 'L', '_type', '_file', 'sh'
SET_239 = {46, 492, 1017, 1472}  # 'O', 'ly', ' message', 'clude'
SET_240 = {56, 833, 1128, 1697}  # 'Y', 'if', ' col', 'qual'
SET_241 = {61, 1129, 1836, 2040}  # '^', '========', ' man', ' Exten'
SET_242 = {65, 983, 1246, 1861}  # 'b', 'fig', 'ls', 'afe'
SET_243 = {71, 969, 1361, 1504}  # 'h', 'ft', 'its', '06'
SET_244 = {78, 665, 1091, 1465}  # 'o', 'ms', 'ran', 'ta'
SET_245 = {85, 264, 600, 1141}  # 'v', ' t', '_c', ' z'
SET_246 = {266, 564, 854, 1260}  # " '", ' [', '(t', '_in'
SET_247 = {276, 729, 1056, 1237}  # 'self', 'lose', 'map', 'row'
SET_248 = {332, 528, 567, 1167}  # 'mp', 'key', 'so', 'ork'
SET_249 = {345, 508, 1418, 1695}  # ' S', 'set', ' mod', 'UP'
SET_250 = {354, 1049, 1819, 1943}  # ' to', 'ail', " ['", '.S'
SET_251 = {356, 642, 1084, 1103}  # 'ile', 'ho', 'method', '),\\n'
SET_252 = {364, 674, 1727, 1985}  # '(self', ' type', '_T', 'cor'
SET_253 = {430, 728, 753, 1770}  # 'ke', 'ated', '_name', 'play'
SET_254 = {433, 779, 980, 1626}  # 'ect', ' |', ' la', ' request'
SET_255 = {452, 711, 1290, 1341}  # 'use', 'IS', '])\\n', '...'
SET_256 = {463, 595, 1276, 1994}  # 'rom', ' en', '12', ' position'
SET_257 = {480, 853, 1832, 1981}  # ' me', '.path', 'ized', ' act'
SET_258 = {483, 1466, 1560, 1996}  # '**', '.add', ' std', ' parse'
SET_259 = {491, 1294, 1421, 1949}  # ' else', "'.", ' \\\\', ' full'
SET_260 = {499, 666, 1278, 1662}  # 'iz', 'unt', '32', 'gister'
SET_261 = {516, 662, 777, 1379}  # ' __', ' string', 'ak', ' arguments'
SET_262 = {529, 963, 1429, 1813}  # ' lo', 'heck', ' match', '_D'
SET_263 = {535, 1532, 1713, 1952}  # ' it', ' exist', 'Lo', ' warnings'
SET_264 = {544, 956, 1245, 1903}  # ']\\n', 'coder', '_co', 'ne'
SET_265 = {549, 809, 929, 1569}  # ' O', ' time', 'from', ' sequence'
SET_266 = {573, 940, 944, 1435}  # ' WITH', 'cket', 'oc', '02'
SET_267 = {577, 774, 778, 832}  # 'el', 'vent', 'len', '."""\\n'
SET_268 = {591, 1388, 1512, 1939}  # ' ch', 'MA', ' parameter', ' Co'
SET_269 = {614, 985, 1340, 1932}  # 'ault', 'bug', ' values', '(other'
SET_270 = {831, 906, 1052, 1914}  # ' call', ' used', ' one', ' dictionary'
SET_271 = {861, 1163, 1215, 1919}  # ' This', 'ERT', '.is', '(input'
SET_272 = {1073, 1172, 1709, 1844}  # 'False', '(n', ' ass', '_pre'
SET_273 = {1201, 1265, 1425, 1463}  # ' mode', '_e', 'object', ' attribute'
SET_274 = {1358, 1597, 1673, 1877}  # '().', ' next', 'build', 'arn'
SET_275 = {1469, 1587, 1664, 1928}  # '.close', ' >=', 'wait', 'yte'
SET_276 = {6, 47, 69, 799, 1318}  # "'", 'P', 'f', 'ning', ' inter'
SET_277 = {49, 434, 1529, 1878, 1921}  # 'R', '.\\n\\n', '")\\n\\n', ' content', 'color'
SET_278 = {58, 282, 361, 1261, 1789}  # '[', ' #', 'ex', 'mpty', '].'
SET_279 = {60, 527, 584, 615, 1416}  # ']', 'ader', 'mat', 'sion', ' errors'
SET_280 = {80, 308, 348, 486, 805}  # 'q', ' in', "'\\n", 'op', 'pr'
SET_281 = {261, 526, 814, 1098, 1726}  # '       ', 'odule', ' add', ' start', 'reate'
SET_282 = {272, 397, 943, 1500, 1639}  # 'le', ' A', ' mo', 'sponse', ' ST'
SET_283 = {295, 1040, 1494, 1618, 1841}  # '\\n\\n', ' instance', 'ctions', 'compile', '_con'
SET_284 = {299, 453, 473, 507, 646}  # ' s', ' W', '==', 'ode', 'Re'
SET_285 = {310, 530, 1119, 1666, 1892}  # '                ', ' ar', ' +=', 'OD', '(msg'
SET_286 = {316, 327, 506, 797, 1505}  # ' -', 'co', ' B', '.s', '=self'
SET_287 = {358, 1029, 1140, 1452, 1840}  # 'AL', ' In', '[:', ' Un', 'cro'
SET_288 = {385, 587, 594, 973, 1855}  # 'is', 'ind', 'out', 'ield', ' min'
SET_289 = {388, 952, 1457, 1592, 1971}  # ' """', ' :', ' iter', ' tran', '(file'
SET_290 = {396, 1132, 1633, 1826, 2001}  # ' D', ' up', 'Implement', ' timeout', '_ch'
SET_291 = {405, 420, 978, 1088, 1717}  # ' be', "',", 'ha', ' format', ' loop'
SET_292 = {423, 603, 938, 1747, 1889}  # ' I', 'stance', ' De', 'property', ' defined'
SET_293 = {461, 817, 1164, 1171, 1200}  # ' as', ' argument', 'dict', 'clu', 'LO'
SET_294 = {468, 836, 902, 1654, 1874}  # 'mport', ' isinstance', ' >', '[i', '(['
SET_295 = {476, 576, 1404, 1565, 1910}  # '.p', 'read', ':\\\\', 'File', 'socket'
SET_296 = {511, 1197, 1307, 1544, 1902}  # ' E', '.write', 'xF', ' dict', '(*'
SET_297 = {513, 601, 618, 759, 891}  # 'list', ' The', '     ', 'import', 'cal'
SET_298 = {537, 1080, 1086, 1275, 1842}  # ' le', ' Ex', '_h', '.n', ' variable'
SET_299 = {541, 619, 848, 1277, 1314}  # '.__', ' get', '()\\n\\n', ' .', ' charact'
SET_300 = {546, 586, 716, 1051, 1530}  # ' ma', 'app', 'est', 'quest', 'load'
SET_301 = {561, 705, 840, 1206, 1363}  # '__(', ' {', ' option', '(value', ' close'
SET_302 = {598, 608, 1000, 1562, 1699}  # '))\\n', ' do', '10', '(data', "'))\\n"
SET_303 = {647, 678, 850, 1024, 1157}  # 'pre', 'ca', 'no', 'filename', ' dis'
SET_304 = {691, 719, 748, 908, 1151}  # ' we', '.st', '.w', ' Re', ' while'
SET_305 = {693, 897, 1095, 1440, 1543}  # 'HA', 'tern', ' K', '[-', ' gener'
SET_306 = {792, 815, 1110, 1130, 1967}  # ' bu', 'ain', '.de', 'ameter', 'assed'
SET_307 = {998, 1263, 1620, 1700, 1883}  # 'valid', 'vert', '_di', 'wo', '")'
SET_308 = {1062, 1283, 1408, 1777, 2024}  # ' args', ' {}', '#\\n', ' back', 'ots'
SET_309 = {1170, 1311, 1356, 1481, 1958}  # 'ee', 'ache', ' output', 'run', '.r'
SET_310 = {13, 44, 437, 794, 1123, 1136}  # '.', 'M', 'ab', ' >>>', 'attern', 'ytes'
SET_311 = {50, 292, 337, 342, 939, 1042}  # 'S', 'it', 'ue', 'ge', 'ition', ')\\n\\n\\n'
SET_312 = {55, 84, 293, 399, 1007, 1412}  # 'X', 'u', '""', 'ri', 'dir', ' input'
SET_313 = {83, 428, 522, 860, 1296, 1535}  # 't', 'ype', ' g', ' out', 'UR', ' token'
SET_314 = {296, 432, 536, 1125, 1127, 1254}  # ' o', 'ir', 'ser', ' event', '_de', ' size'
SET_315 = {318, 365, 919, 1154, 1761, 1848}  # ' de', ' T', 'rap', 'gist', 'ormal', ' build'
SET_316 = {449, 474, 744, 818, 1623, 1858}  # '()\\n', ' raise', '.f', ' default', '((', 'temp'
SET_317 = {532, 621, 767, 1312, 1423, 1455}  # 'qu', ' <', ' un', '.se', ' thread', ' objects'
SET_318 = {760, 930, 1186, 1222, 1360, 1605}  # ' comp', ' at', 'IR', ' Type', ' qu', ' app'
SET_319 = {863, 1039, 1309, 1786, 1882, 1982}  # 'fe', '_ex', ' frame', '                      ', 'ify', ' don'
SET_320 = {7, 373, 895, 1009, 1045, 1704, 1912}  # '(', 'name', '():\\n', ' end', ']\\n\\n', ' handle', 'bel'
SET_321 = {29, 949, 988, 1253, 1267, 1575, 1867}  # '>', 'DE', 'St', '_F', '.ex', ' IN', ' instead'
SET_322 = {32, 278, 387, 417, 698, 750, 798}  # 'A', 'he', ' of', 'and', '),', 'HT', 'iv'
SET_323 = {52, 436, 933, 958, 1133, 1603, 1616}  # 'U', 'ise', ' `', 'join', 'sent', '.h', ' inte'
SET_324 = {63, 322, 517, 543, 671, 1368, 1831}  # '`', 'ut', '_t', 'able', '                       ', ' exc', ' two'
SET_325 = {74, 326, 359, 612, 1173, 1293, 1922}  # 'k', 'nt', ' (', '_s', ' j', 'riter', '(ex'
SET_326 = {95, 413, 673, 695, 869, 870, 1474}  # '\\ufffd', ' h', ' par', ' method', 'par', ' num', 'state'
SET_327 = {270, 329, 363, 856, 1111, 1983, 1989}  # ' i', '               ', 'pt', 'EF', 'UM', 'ascii', '_from'
SET_328 = {271, 367, 776, 1058, 1511, 1641, 1681}  # ':\\n', ' N', ' has', 'race', 'ttp', '":\\n', ' process'
SET_329 = {275, 467, 607, 616, 644, 1012, 1410}  # 'st', 'ack', 'ING', 'ument', 'ok', 'form', '_m'
SET_330 = {279, 284, 439, 459, 1181, 1347, 1944}  # ')\\n', ' c', 'ult', ' name', 'US', '11', '(r'
SET_331 = {331, 518, 846, 1025, 1240, 1563, 1963}  # 'lo', '("', 'EN', 'andle', ' doc', 'da', 'rotocol'
SET_332 = {333, 520, 590, 675, 1031, 1219, 1570}  # ' ->', ' ==', ' from', 'dd', '              ', ' []\\n', '(path'
SET_333 = {90, 257, 286, 290, 438, 610, 1775, 1935}  # '{', '    ', ' f', ' re', '                   ', ' try', 'OF', ' orig'
SET_334 = {301, 362, 786, 834, 920, 1881, 1901, 1962}  # 'ing', 'ra', 'data', 'port', ' context', 'untime', 'unction', '_line'
SET_335 = {309, 676, 964, 1444, 1748, 1795, 1993, 2034}  # '):\\n', 'ord', 'arning', 'host', '))', ' config', 'lean', '_par'
SET_336 = {487, 553, 637, 717, 849, 962, 976, 1255}  # 'ase', ' """\\n', 'put', ' v', ' text', 'lit', ' op', ' X'
SET_337 = {88, 304, 312, 657, 672, 727, 772, 965, 1182}  # 'y', ' b', ' L', ' G', 'rite', 'add', 'attr', 'own', 'ac'
SET_338 = {294, 446, 472, 741, 829, 955, 1102, 1160, 1331, 1740}  # 'ur', 'ap', 'ction', ' new', ' int', '22', 'mb', 'lable', ' max', '_g'
SET_339 = {62, 64, 71, 83, 262, 265, 272, 277, 287, 289, 331, 337, 351, 373, 379, 410, 426, 432, 450, 462, 481, 486, 517, 528, 538, 644, 660, 716, 774, 850, 964, 965, 978, 1112, 1189, 1291, 1581, 1658, 1700, 1701, 1770, 1791, 1919, 1927}  # '_', 'a', 'h', 't', 'in', 'on', 'le', 'at', 'ar', 'en' and 34 more
SET_340 = {64, 82, 267, 280, 336, 716}  # 'a', 's', 'er', ' =', 'la', 'est'
SET_341 = {277, 302, 594, 612, 751, 826, 1581, 1591}  # 'at', 'an', 'out', '_s', 'ber', 'pro', 'message', 'text'
SET_342 = {67, 68, 79, 81, 84, 87, 88, 272, 327, 344, 470, 575, 1212}  # 'd', 'e', 'p', 'r', 'u', 'x', 'y', 'le', 'co', ' "' and 3 more
SET_343 = {327, 373, 426, 450, 594, 987}  # 'co', 'name', 'value', 'ent', 'out', '_n'
SET_344 = {62, 64, 75, 84, 280, 289, 305, 360, 886}  # '_', 'a', 'l', 'u', ' =', 'en', 'ce', 'un', '_st'
SET_345 = {66, 281, 289, 302, 385, 470, 594, 1619}  # 'c', 'me', 'en', 'an', 'is', 'file', 'out', 'mber'
SET_346 = {82, 263, 267, 272, 406, 543, 557, 644, 676, 716, 834, 1601, 1770, 1811}  # 's', 're', 'er', 'le', 'ter', 'able', 'age', 'ok', 'ord', 'est' and 4 more
SET_347 = {67, 87, 269, 277, 285, 292, 305, 313, 331, 336, 353, 369, 399, 567, 575, 670, 774, 850, 1431, 1581}  # 'd', 'x', 'or', 'at', 'al', 'it', 'ce', 'ame', 'lo', 'la' and 10 more
SET_348 = {83, 517, 682, 1591}  # 't', '_t', '.t', 'text'
SET_349 = {336, 484, 676, 843, 1912}  # 'la', 'ry', 'ord', 'eld', 'bel'
SET_350 = {70, 77, 266, 344, 385, 635, 682, 1002, 1271, 1280, 1365}  # 'g', 'n', " '", ' "', 'is', '_f', '.t', 'roup', 'open', 'ask' and 1 more


def gelu(x):
    return 0.5 * x * (1 + erf(x / sqrt(2)))


def keep(x, least):
    return x if abs(x) >= least else 0.0


def answer(tokens):
    keys = {2: [], 3: []}
    for end in range(1, len(tokens) + 1):
        seen, token = tokens[:end], tokens[end - 1]
        stream_13 = -0.292 if token == 88 else 0.366 if token in SET_1 else -0.0917 if token in SET_2 else 0.246 if token in SET_3 else 0.122 if token in SET_4 else 0.00325
        stream_73 = 0.218 if token in SET_5 else -0.00092
        stream_137 = 0.359 if token == 586 else -0.279 if token in SET_6 else 0.185 if token in SET_7 else -0.114 if token in SET_8 else 0.112 if token in SET_9 else -0.000715
        # Layer 0, head 2, beside its sink.
        weights = [exp(-2.0875)] * len(seen)
        total = sum(weights) + 1.0
        moved_0_33 = sum(w * -0.274 for w, t in zip(weights, seen)) / total  # opens a string of ' (F1 0.77)
        # Layer 0, head 4, beside its sink.
        weights = [exp(-2.65)] * len(seen)
        total = sum(weights) + 1.0
        moved_0_68 = sum(w * 0.144 for w, t in zip(weights, seen)) / total  # the token is 'e' (F1 0.66)
        moved_0_75 = sum(w * (3.89 if t == 1126 else 0.00582) for w, t in zip(weights, seen)) / total
        # Layer 0, head 9, beside its sink.
        weights = [exp(-1.8175)] * len(seen)
        total = sum(weights) + 1.0
        moved_0_147 = sum(w * (-2.73 if t in SET_10 else 0.844 if t in SET_11 else -0.295) for w, t in zip(weights, seen)) / total
        moved_0_149 = sum(w * (-1.04 if t in SET_12 else -0.056) for w, t in zip(weights, seen)) / total  # the token is 'w' (F1 0.73)
        moved_0_153 = sum(w * (-4.42 if t == 1126 else -1.92 if t in SET_13 else 0.793 if t in SET_14 else 0.243) for w, t in zip(weights, seen)) / total
        moved_0_157 = sum(w * (-1.71 if t == 1126 else 0.939 if t in SET_15 else -0.671 if t in SET_16 else 0.39) for w, t in zip(weights, seen)) / total
        stream_3 = 0.228 * moved_0_147 + 0.267 * moved_0_153 + 0.43
        stream_73 += 0.257 * moved_0_33 - 0.149 * moved_0_147 - 0.374 * moved_0_153 + 0.269
        stream_84 = -0.132 * moved_0_75 - 0.371 * moved_0_149 - 0.381
        stream_115 = 0.272 * moved_0_75 + 0.28 * moved_0_149 + 0.0697
        stream_124 = -0.0798 * moved_0_147 - 0.119 * moved_0_153 - 0.198 * moved_0_157 + 0.0333
        stream_156 = 0.398 * moved_0_68 - 0.0731 * moved_0_153 - 0.0385
        # Layer 0, neurons.
        token_90 = -0.383 if token == 336 else 0.134 if token in SET_17 else 0.000372
        token_126 = 0.18 if token in SET_18 else -0.0151
        token_136 = -0.395 if token == 336 else 0.0245 if token in SET_19 else 0.296 if token in SET_20 else 0.169 if token in SET_21 else -0.201 if token in SET_22 else -0.0671 if token in SET_23 else 0.241 if token in SET_24 else -7.21e-05
        token_151 = 0.191 if token in SET_6 else -0.309 if token in SET_25 else 0.0
        token_152 = -0.215 if token in SET_26 else 0.231 if token in SET_27 else 0.00602
        neuron_0_327 = gelu(1.43 * token_90 + 1.02 * token_126 + 1.22 * token_136 - 1.73 * stream_137 + 1.41 * token_151 - 1.68 * token_152 - 0.349)  # opens a string (keeps 95%, F1 0.66)
        neuron_0_588 = gelu(-0.956 * token_90 - 0.605 * token_126 + 3.04 * stream_137 + 0.872)
        stream_105 = 0.0382 * neuron_0_327 - 0.713 * neuron_0_588 - 0.387
        stream_137 += -0.335 * neuron_0_327 - 0.126  # the token is " \'" (F1 0.87)
        stream_188 = 0.209 * neuron_0_327 + 0.084  # the token is " \'" (F1 0.94)
        # Layer 1, neurons.
        token_87 = -0.115 if token in SET_28 else 0.000495
        token_123 = 0.44 if token == 385 else -0.147 if token in SET_29 else 0.132 if token in SET_30 else -0.307 if token in SET_31 else 0.331 if token in SET_32 else 8.12e-05
        token_126 = 0.18 if token in SET_18 else -0.0151
        token_151 = 0.191 if token in SET_6 else -0.309 if token in SET_25 else 0.0
        token_164 = -0.406 if token in SET_33 else 0.214 if token in SET_34 else 0.128 if token in SET_35 else -0.267 if token in SET_36 else -0.147 if token in SET_37 else 0.00687
        token_187 = 0.00327 if token == 2 else -0.247 if token == 7 else -0.171 if token == 9 else -0.335 if token == 11 else -0.246 if token == 13 else -0.359 if token == 16 else -0.0984 if token == 17 else -0.0915 if token == 18 else -0.0592 if token == 19 else -0.0285 if token == 22 else -0.0465 if token == 23 else -0.0165 if token == 25 else -0.11 if token == 27 else -0.015 if token == 32 else -0.146 if token == 34 else -0.0441 if token == 35 else -0.191 if token == 36 else -0.0416 if token == 37 else -0.199 if token == 40 else -0.192 if token == 46 else -0.0992 if token == 47 else -0.137 if token == 50 else -0.0806 if token == 52 else 0.0122 if token == 54 else -0.381 if token == 62 else 0.0689 if token == 64 else -0.317 if token == 65 else -0.0687 if token == 66 else -0.0138 if token == 68 else -0.032 if token == 70 else -0.0521 if token == 71 else 0.0235 if token == 77 else -0.0451 if token == 78 else 0.00418 if token == 79 else -0.0881 if token == 80 else 0.0185 if token == 82 else -0.0698 if token == 86 else 0.0476 if token == 87 else 0.0169 if token == 88 else -0.096 if token == 89 else -0.266 if token == 220 else 0.152 if token == 242 else 0.0761 if token == 257 else -0.23 if token == 258 else -0.27 if token == 264 else 0.269 if token == 266 else 0.0716 if token == 269 else 0.0506 if token == 270 else 0.0252 if token == 271 else -0.0704 if token == 273 else -0.0753 if token == 276 else 0.0645 if token == 277 else -0.0795 if token == 278 else -0.114 if token == 280 else 0.0427 if token == 282 else 0.0749 if token == 283 else -0.258 if token == 284 else -0.134 if token == 286 else -0.0167 if token == 287 else -0.275 if token == 288 else 0.0135 if token == 291 else 0.0189 if token == 295 else -0.00939 if token == 297 else -0.31 if token == 300 else 0.122 if token == 301 else -0.0164 if token == 305 else -0.248 if token == 307 else -0.06 if token == 308 else -0.184 if token == 315 else -0.0968 if token == 318 else 0.0128 if token == 320 else -0.124 if token == 322 else -0.0341 if token == 327 else 0.134 if token == 330 else -0.0852 if token == 335 else -0.025 if token == 336 else -0.142 if token == 340 else 0.237 if token == 344 else -0.197 if token == 345 else -0.00844 if token == 350 else -0.0749 if token == 355 else -0.0964 if token == 367 else -0.0632 if token == 375 else 0.097 if token == 384 else 0.252 if token == 387 else -0.0868 if token == 392 else -0.00885 if token == 393 else 0.00132 if token == 398 else 0.000725 if token == 401 else -0.115 if token == 402 else -0.0393 if token == 406 else -0.0339 if token == 417 else 0.0551 if token == 420 else 0.048 if token == 429 else 0.0455 if token == 435 else 0.0883 if token == 450 else 0.0137 if token == 452 else 0.155 if token == 457 else -0.18 if token == 464 else 0.0423 if token == 475 else -0.231 if token == 476 else 0.21 if token == 485 else 0.0731 if token == 490 else -0.0528 if token == 501 else 0.0868 if token == 505 else 0.0139 if token == 512 else -0.194 if token == 514 else -0.348 if token == 517 else 0.169 if token == 518 else -0.0793 if token == 522 else -0.00953 if token == 528 else -0.167 if token == 531 else -0.0563 if token == 537 else 0.0313 if token == 538 else -0.0232 if token == 549 else -0.176 if token == 552 else -0.35 if token == 561 else -0.364 if token == 564 else 0.0929 if token == 588 else 0.0678 if token == 589 else -0.119 if token == 594 else -0.262 if token == 599 else -0.272 if token == 600 else 0.242 if token == 601 else -0.0818 if token == 604 else 0.102 if token == 608 else -0.0875 if token == 612 else 0.058 if token == 631 else -0.0158 if token == 634 else -0.0965 if token == 635 else 0.303 if token == 636 else 0.214 if token == 639 else 0.112 if token == 644 else -0.0569 if token == 652 else 0.22 if token == 653 else 0.0494 if token == 670 else 0.0568 if token == 681 else 0.0672 if token == 692 else 0.00762 if token == 703 else -0.132 if token == 705 else -0.239 if token == 707 else -0.257 if token == 708 else -0.0831 if token == 722 else 0.31 if token == 754 else 0.0463 if token == 755 else -0.0626 if token == 768 else -0.358 if token == 770 else -0.189 if token == 778 else 0.0845 if token == 794 else 0.137 if token == 803 else -0.0976 if token == 806 else -0.24 if token == 826 else 0.429 if token == 827 else -0.216 if token == 835 else -0.397 if token == 839 else 0.0671 if token == 842 else -0.177 if token == 854 else -0.299 if token == 865 else -0.109 if token == 871 else 0.0587 if token == 878 else 0.0623 if token == 900 else 0.0387 if token == 903 else 0.142 if token == 928 else 0.0907 if token == 930 else -0.113 if token == 933 else -0.0362 if token == 952 else 0.402 if token == 955 else 0.147 if token == 961 else -0.0133 if token == 978 else 0.0385 if token == 984 else 0.0234 if token == 996 else 0.07 if token == 1032 else -0.369 if token == 1047 else 0.192 if token == 1049 else 0.0717 if token == 1071 else 0.0889 if token == 1076 else 0.16 if token == 1080 else 0.0337 if token == 1091 else 0.0971 if token == 1093 else 0.0606 if token == 1097 else -0.21 if token == 1110 else -0.205 if token == 1127 else 0.0105 if token == 1143 else -0.0364 if token == 1151 else -0.241 if token == 1152 else -0.118 if token == 1172 else 0.0851 if token == 1174 else -0.0371 if token == 1176 else -0.143 if token == 1179 else 0.156 if token == 1184 else 0.116 if token == 1189 else 0.146 if token == 1194 else 0.0434 if token == 1213 else 0.0809 if token == 1236 else 0.0667 if token == 1237 else 0.216 if token == 1238 else -0.221 if token == 1252 else 0.0449 if token == 1257 else 0.056 if token == 1261 else 0.118 if token == 1263 else 0.0477 if token == 1266 else 0.219 if token == 1271 else 0.191 if token == 1276 else -0.329 if token == 1277 else 0.212 if token == 1278 else -0.0562 if token == 1285 else 0.119 if token == 1287 else -0.186 if token == 1305 else -0.157 if token == 1334 else 0.151 if token == 1348 else 0.145 if token == 1353 else 0.0894 if token == 1356 else -0.233 if token == 1358 else -0.33 if token == 1387 else -0.36 if token == 1391 else 0.19 if token == 1392 else -0.0674 if token == 1399 else 0.0942 if token == 1412 else -0.174 if token == 1421 else 0.0758 if token == 1426 else 0.304 if token == 1435 else 0.0704 if token == 1457 else 0.104 if token == 1459 else -0.277 if token == 1469 else 0.164 if token == 1477 else 0.193 if token == 1479 else 0.139 if token == 1491 else 0.129 if token == 1497 else 0.105 if token == 1512 else 0.0917 if token == 1527 else 0.0766 if token == 1535 else 0.135 if token == 1547 else 0.349 if token == 1549 else 0.124 if token == 1558 else 0.0632 if token == 1580 else 0.176 if token == 1597 else -0.0329 if token == 1623 else -0.251 if token == 1638 else -0.187 if token == 1693 else 0.13 if token == 1701 else 0.0496 if token == 1714 else 0.457 if token == 1731 else -0.0839 if token == 1740 else 0.0439 if token == 1766 else 0.00967 if token == 1773 else -0.294 if token == 1789 else 0.213 if token == 1792 else 0.0511 if token == 1819 else -0.0755 if token == 1822 else 0.0516 if token == 1830 else 0.084 if token == 1832 else 0.184 if token == 1854 else -0.0867 if token == 1857 else -0.0716 if token == 1860 else 0.0572 if token == 1876 else 0.114 if token == 1886 else 0.422 if token == 1908 else 0.108 if token == 1993 else -0.0256 if token == 2001 else 0.0881 if token == 2005 else 0.09 if token == 2012 else 0.0537 if token == 2022 else 0.0192 if token == 2030 else 0.121 if token in SET_38 else -0.127 if token in SET_39 else -0.104 if token in SET_40 else -0.15 if token in SET_41 else -0.108 if token in SET_42 else -0.17 if token in SET_43 else 0.109 if token in SET_44 else -0.101 if token in SET_45 else -0.225 if token in SET_46 else -0.311 if token in SET_47 else 0.107 if token in SET_48 else -0.129 if token in SET_49 else 0.171 if token in SET_50 else -0.284 if token in SET_51 else 0.264 if token in SET_52 else -0.163 if token in SET_53 else 0.0677 if token in SET_54 else 0.165 if token in SET_55 else -0.117 if token in SET_56 else 0.161 if token in SET_57 else 0.127 if token in SET_58 else -0.175 if token in SET_59 else -0.159 if token in SET_60 else -0.0762 if token in SET_61 else 0.123 if token in SET_62 else -0.141 if token in SET_63 else -0.236 if token in SET_64 else 0.163 if token in SET_65 else 0.0828 if token in SET_66 else 0.223 if token in SET_67 else -0.222 if token in SET_68 else -0.162 if token in SET_69 else 0.14 if token in SET_70 else 0.106 if token in SET_71 else -0.224 if token in SET_72 else 0.12 if token in SET_73 else -0.122 if token in SET_74 else -0.131 if token in SET_75 else 0.0
        neuron_1_452 = max(0.0, 1.47 * stream_13 - 0.953 * token_87 - 2.49 * token_123 + 0.874 * token_126 + 0.667 * token_151 + 0.621 * -0.00958 + 0.811 * token_164 + 1.38 * token_187 - 0.635)  # opens a string (keeps 94%, F1 0.88)
        stream_13 += 0.505 * neuron_1_452 + 0.151  # opens a string (keeps 94%, F1 0.66)
        stream_23 = 0.137 * neuron_1_452 + 0.327  # the token is " \'" (F1 0.62)
        stream_156 += 0.0688 * neuron_1_452 - 0.00356  # the token is " \'" (F1 0.93)
        token_91 = 0.412 if token == 567 else 0.171 if token in SET_76 else -0.234 if token in SET_77 else -0.00878
        token_96 = -0.252 if token in SET_78 else 0.232 if token in SET_79 else 0.0087
        token_126 = 0.18 if token in SET_18 else -0.0151
        token_138 = -0.121 if token in SET_80 else 0.192 if token in SET_81 else 0.0134
        token_143 = 0.251 if token == 327 else 0.359 if token == 715 else -0.265 if token == 1919 else -0.115 if token in SET_82 else -0.209 if token in SET_83 else 0.0592 if token in SET_84 else 0.213 if token in SET_85 else 0.105 if token in SET_86 else -0.000143
        token_162 = -0.844 if token == 27 else -0.469 if token == 67 else -0.55 if token == 70 else -0.501 if token == 79 else -0.449 if token == 93 else -0.544 if token == 260 else -0.565 if token == 263 else -0.52 if token == 265 else -0.472 if token == 267 else -0.25 if token == 273 else -0.49 if token == 281 else -0.433 if token == 285 else -0.309 if token == 289 else -0.41 if token == 305 else -0.499 if token == 317 else -0.497 if token == 320 else -0.814 if token == 339 else -0.75 if token == 341 else -0.533 if token == 346 else -0.409 if token == 353 else -0.539 if token == 379 else -0.514 if token == 383 else -0.16 if token == 392 else -0.569 if token == 401 else -0.884 if token == 411 else -0.529 if token == 421 else -0.518 if token == 447 else -0.502 if token == 450 else -0.473 if token == 462 else -0.498 if token == 464 else -0.755 if token == 475 else -0.801 if token == 478 else -0.888 if token == 479 else -0.576 if token == 488 else -0.519 if token == 495 else -0.743 if token == 524 else -0.524 if token == 542 else -0.728 if token == 558 else -0.77 if token == 559 else -0.773 if token == 563 else -0.363 if token == 566 else -0.507 if token == 568 else -0.467 if token == 571 else -0.985 if token == 613 else -0.772 if token == 620 else -0.756 if token == 622 else -0.711 if token == 629 else -0.807 if token == 632 else -0.584 if token == 634 else -0.462 if token == 652 else -0.714 if token == 664 else -0.73 if token == 689 else -0.821 if token == 712 else -0.493 if token == 725 else -0.395 if token == 726 else -0.48 if token == 740 else -0.586 if token == 758 else -0.917 if token == 787 else -0.452 if token == 806 else -0.763 if token == 811 else -0.841 if token == 819 else -0.511 if token == 838 else -0.59 if token == 872 else -0.444 if token == 903 else -0.377 if token == 905 else -0.82 if token == 917 else -0.334 if token == 922 else -0.849 if token == 931 else -0.848 if token == 1006 else -0.846 if token == 1020 else -0.875 if token == 1022 else -0.489 if token == 1027 else -0.777 if token == 1030 else -0.806 if token == 1035 else -1.03 if token == 1036 else -0.389 if token == 1043 else -0.386 if token == 1083 else -0.618 if token == 1085 else -0.845 if token == 1093 else -0.653 if token == 1112 else -0.809 if token == 1138 else -0.883 if token == 1177 else -0.788 if token == 1188 else -0.923 if token == 1192 else -0.532 if token == 1212 else -0.822 if token == 1236 else -0.797 if token == 1259 else -0.457 if token == 1280 else -1.0 if token == 1281 else -0.966 if token == 1288 else -0.387 if token == 1289 else -0.404 if token == 1292 else -0.432 if token == 1313 else -0.599 if token == 1321 else -0.578 if token == 1324 else -0.948 if token == 1325 else -0.854 if token == 1382 else -0.571 if token == 1411 else -0.662 if token == 1427 else -0.554 if token == 1431 else -0.803 if token == 1445 else -0.981 if token == 1477 else -0.829 if token == 1482 else -0.816 if token == 1491 else -0.441 if token == 1503 else -0.93 if token == 1523 else -0.925 if token == 1556 else -0.546 if token == 1571 else -0.918 if token == 1576 else -0.889 if token == 1577 else -0.819 if token == 1582 else -0.769 if token == 1595 else -0.868 if token == 1600 else -0.522 if token == 1609 else -0.853 if token == 1614 else -0.939 if token == 1617 else -0.503 if token == 1619 else -0.909 if token == 1622 else -0.851 if token == 1632 else -0.561 if token == 1658 else -0.882 if token == 1659 else -0.551 if token == 1667 else -0.817 if token == 1675 else -0.478 if token == 1676 else -0.791 if token == 1706 else -0.85 if token == 1711 else -0.942 if token == 1734 else -0.351 if token == 1736 else -0.523 if token == 1745 else -0.785 if token == 1746 else -0.784 if token == 1752 else -0.406 if token == 1758 else -0.749 if token == 1765 else -0.916 if token == 1769 else -0.621 if token == 1771 else -0.88 if token == 1774 else -0.796 if token == 1780 else -0.45 if token == 1783 else -0.582 if token == 1839 else -0.771 if token == 1859 else -0.434 if token == 1862 else -0.922 if token == 1871 else -0.583 if token == 1886 else -0.384 if token == 1898 else -0.429 if token == 1906 else -0.838 if token == 1909 else -0.781 if token == 1913 else -0.951 if token == 1915 else -0.906 if token == 1924 else -1.08 if token == 1929 else -0.407 if token == 1961 else -0.553 if token == 1975 else -0.937 if token == 1978 else -0.975 if token == 1998 else -0.991 if token == 2008 else -0.826 if token == 2022 else -0.861 if token == 2025 else -0.827 if token in SET_87 else -0.636 if token in SET_88 else -0.835 if token in SET_89 else -0.592 if token in SET_90 else -0.562 if token in SET_91 else -0.527 if token in SET_92 else -0.579 if token in SET_93 else -0.5 if token in SET_94 else -0.559 if token in SET_95 else -0.786 if token in SET_96 else -0.626 if token in SET_97 else -0.67 if token in SET_98 else -0.53 if token in SET_99 else -0.644 if token in SET_100 else -0.627 if token in SET_101 else -0.616 if token in SET_102 else -0.528 if token in SET_103 else -0.79 if token in SET_104 else -0.675 if token in SET_105 else -0.477 if token in SET_106 else -0.51 if token in SET_107 else -0.726 if token in SET_108 else -0.633 if token in SET_109 else -0.736 if token in SET_110 else -0.512 if token in SET_111 else -0.707 if token in SET_112 else -0.555 if token in SET_113 else -0.695 if token in SET_114 else -0.608 if token in SET_115 else -0.548 if token in SET_116 else -0.597 if token in SET_117 else -0.595 if token in SET_118 else -0.727 if token in SET_119 else -0.852 if token in SET_120 else -0.588 if token in SET_121 else -0.468 if token in SET_122 else -0.768 if token in SET_123 else -0.687 if token in SET_124 else -0.419 if token in SET_125 else -0.666 if token in SET_126 else -0.766 if token in SET_127 else -0.761 if token in SET_128 else -0.721 if token in SET_129 else -0.776 if token in SET_130 else -0.78 if token in SET_131 else -0.475 if token in SET_132 else -0.787 if token in SET_133 else -0.442 if token in SET_134 else -0.631 if token in SET_135 else -0.517 if token in SET_136 else -0.535 if token in SET_137 else -0.76 if token in SET_138 else -0.71 if token in SET_139 else -0.738 if token in SET_140 else -0.606 if token in SET_141 else -0.735 if token in SET_142 else -0.484 if token in SET_143 else -0.628 if token in SET_144 else -0.842 if token in SET_145 else -0.646 if token in SET_146 else -0.872 if token in SET_147 else -0.54 if token in SET_148 else -0.474 if token in SET_149 else -0.545 if token in SET_150 else -0.824 if token in SET_151 else -0.782 if token in SET_152 else -0.812 if token in SET_153 else -0.811 if token in SET_154 else -0.863 if token in SET_155 else -0.831 if token in SET_156 else -0.691 if token in SET_157 else -0.567 if token in SET_158 else -0.581 if token in SET_159 else -0.856 if token in SET_160 else -0.538 if token in SET_161 else -0.577 if token in SET_162 else -0.58 if token in SET_163 else -0.874 if token in SET_164 else -0.847 if token in SET_165 else -0.655 if token in SET_166 else -0.742 if token in SET_167 else -0.902 if token in SET_168 else -0.927 if token in SET_169 else -0.794 if token in SET_170 else -0.792 if token in SET_171 else -0.804 if token in SET_172 else -0.537 if token in SET_173 else -0.836 if token in SET_174 else -0.921 if token in SET_175 else -0.855 if token in SET_176 else -0.876 if token in SET_177 else -0.634 if token in SET_178 else -0.617 if token in SET_179 else -0.632 if token in SET_180 else -0.815 if token in SET_181 else -0.686 if token in SET_182 else -0.656 if token in SET_183 else -0.572 if token in SET_184 else -0.585 if token in SET_185 else -0.564 if token in SET_186 else -0.526 if token in SET_187 else -0.64 if token in SET_188 else -0.573 if token in SET_189 else -0.674 if token in SET_190 else -0.765 if token in SET_191 else -0.709 if token in SET_192 else -0.658 if token in SET_193 else -0.705 if token in SET_194 else -0.734 if token in SET_195 else -0.783 if token in SET_196 else -0.623 if token in SET_197 else -0.547 if token in SET_198 else -0.508 if token in SET_199 else -0.61 if token in SET_200 else -0.757 if token in SET_201 else -0.635 if token in SET_202 else -0.596 if token in SET_203 else -0.6 if token in SET_204 else -0.574 if token in SET_205 else -0.69 if token in SET_206 else -0.563 if token in SET_207 else -0.741 if token in SET_208 else -0.604 if token in SET_209 else -0.494 if token in SET_210 else -0.865 if token in SET_211 else -0.671 if token in SET_212 else -0.672 if token in SET_213 else -0.751 if token in SET_214 else -0.568 if token in SET_215 else -0.661 if token in SET_216 else -0.878 if token in SET_217 else -0.723 if token in SET_218 else -0.758 if token in SET_219 else -0.764 if token in SET_220 else -0.795 if token in SET_221 else -0.891 if token in SET_222 else -0.739 if token in SET_223 else -0.56 if token in SET_224 else -0.798 if token in SET_225 else -0.543 if token in SET_226 else -0.778 if token in SET_227 else -0.614 if token in SET_228 else -0.612 if token in SET_229 else -0.89 if token in SET_230 else -0.832 if token in SET_231 else -0.684 if token in SET_232 else -0.799 if token in SET_233 else -0.733 if token in SET_234 else -0.609 if token in SET_235 else -0.638 if token in SET_236 else -0.688 if token in SET_237 else -0.593 if token in SET_238 else -0.601 if token in SET_239 else -0.682 if token in SET_240 else -0.793 if token in SET_241 else -0.558 if token in SET_242 else -0.525 if token in SET_243 else -0.531 if token in SET_244 else -0.624 if token in SET_245 else -0.66 if token in SET_246 else -0.669 if token in SET_247 else -0.62 if token in SET_248 else -0.708 if token in SET_249 else -0.744 if token in SET_250 else -0.703 if token in SET_251 else -0.692 if token in SET_252 else -0.556 if token in SET_253 else -0.637 if token in SET_254 else -0.677 if token in SET_255 else -0.718 if token in SET_256 else -0.541 if token in SET_257 else -0.813 if token in SET_258 else -0.731 if token in SET_259 else -0.591 if token in SET_260 else -0.746 if token in SET_261 else -0.706 if token in SET_262 else -0.802 if token in SET_263 else -0.648 if token in SET_264 else -0.699 if token in SET_265 else -0.552 if token in SET_266 else -0.575 if token in SET_267 else -0.789 if token in SET_268 else -0.753 if token in SET_269 else -0.752 if token in SET_270 else -0.775 if token in SET_271 else -0.717 if token in SET_272 else -0.704 if token in SET_273 else -0.729 if token in SET_274 else -0.779 if token in SET_275 else -0.625 if token in SET_276 else -0.647 if token in SET_277 else -0.665 if token in SET_278 else -0.607 if token in SET_279 else -0.649 if token in SET_280 else -0.663 if token in SET_281 else -0.643 if token in SET_282 else -0.654 if token in SET_283 else -0.681 if token in SET_284 else -0.759 if token in SET_285 else -0.725 if token in SET_286 else -0.724 if token in SET_287 else -0.589 if token in SET_288 else -0.719 if token in SET_289 else -0.694 if token in SET_290 else -0.667 if token in SET_291 else -0.715 if token in SET_292 else -0.713 if token in SET_293 else -0.732 if token in SET_294 else -0.693 if token in SET_295 else -0.745 if token in SET_296 else -0.696 if token in SET_297 else -0.7 if token in SET_298 else -0.747 if token in SET_299 else -0.664 if token in SET_300 else -0.722 if token in SET_301 else -0.676 if token in SET_302 else -0.678 if token in SET_303 else -0.767 if token in SET_304 else -0.762 if token in SET_305 else -0.702 if token in SET_306 else -0.685 if token in SET_307 else -0.697 if token in SET_308 else -0.657 if token in SET_309 else -0.619 if token in SET_310 else -0.613 if token in SET_311 else -0.611 if token in SET_312 else -0.566 if token in SET_313 else -0.622 if token in SET_314 else -0.698 if token in SET_315 else -0.712 if token in SET_316 else -0.754 if token in SET_317 else -0.72 if token in SET_318 else -0.683 if token in SET_319 else -0.659 if token in SET_320 else -0.748 if token in SET_321 else -0.641 if token in SET_322 else -0.716 if token in SET_323 else -0.629 if token in SET_324 else -0.642 if token in SET_325 else -0.679 if token in SET_326 else -0.68 if token in SET_327 else -0.701 if token in SET_328 else -0.587 if token in SET_329 else -0.645 if token in SET_330 else -0.689 if token in SET_331 else -0.74 if token in SET_332 else -0.668 if token in SET_333 else -0.594 if token in SET_334 else -0.673 if token in SET_335 else -0.605 if token in SET_336 else -0.603 if token in SET_337 else -0.602 if token in SET_338 else -0.651
        token_164 = -0.198 if token in SET_339 else 0.0682
        token_189 = 0.289 if token == 1919 else -0.0901 if token in SET_340 else 0.00543
        keys[2].append([5.17 * token_162 - 5.92, 0.8 * stream_105 - 1.21 * token_138 - 2.52 * token_162 - 0.165, 3.82 * token_162 + 3.18, -6.68 * token_162 + 7.44, -1.33 * stream_105 + 1.26 * token_143 + 1.45, -0.935 * stream_105 - 1.52 * token_126 + 3.94 * token_162 - 4.12, -2.68 * token_189 + 1.88, 0.623 * token_143 + 9.81 * token_162 - 0.459 * token_189 - 8.19, 1.8 * token_126 + 0.142, -0.873 * token_91 + 2.12 * token_126 + 0.0485, -0.838 * token_126 + 1.67 * token_138 - 0.195, -0.0606, -2.03 * token_91 + 2.44 * token_126 - 1.26 * -0.0059 - 2.25 * token_138 - 1.73 * token_143 + 1.96 * token_189 + 0.0942, 3.99 * token_189 + 0.0781, 2.14 * token_91 + 1.33 * token_138 + 0.0537, 4.22 * token_91 - 2.77 * token_96 + 0.884 * token_164 - 1.52 * token_189 - 0.424, 2.57 * token_91 - 0.535 * stream_105 + 2.89 * token_138 + 4.35 * token_143 + 1.35 * token_164 - 0.282, -3.43 * token_96 + 2.15 * token_143 + 0.04])
        # Layer 2, head 0, beside its sink.
        weights = [exp(0.25 * (-3.37 * past[0] + 4.74 * past[1] + 0.777)) for past in keys[2]]
        total = sum(weights) + exp(-0.0986)
        moved_2_4 = sum(w * past[8] for w, past in zip(weights, keys[2])) / total
        moved_2_14 = sum(w * past[9] for w, past in zip(weights, keys[2])) / total
        # Layer 2, head 1, beside its sink.
        weights = [exp(0.25 * (-3.15 * past[2] + 1.76 * past[3] + -2.99 * past[4] + -4.73 * past[5] + 0.854)) for past in keys[2]]
        total = sum(weights) + exp(-3.06)
        moved_2_16 = sum(w * past[10] for w, past in zip(weights, keys[2])) / total  # blanks (F1 0.68)
        moved_2_27 = sum(w * past[11] for w, past in zip(weights, keys[2])) / total
        moved_2_29 = sum(w * past[12] for w, past in zip(weights, keys[2])) / total
        # Layer 2, head 4, beside its sink.
        weights = [exp(0.25 * (-10.4 * past[7] + -0.224 * past[6] + 4.67)) for past in keys[2]]
        total = sum(weights) + exp(0.501)
        moved_2_67 = sum(w * past[13] for w, past in zip(weights, keys[2])) / total
        moved_2_69 = sum(w * past[14] for w, past in zip(weights, keys[2])) / total
        moved_2_73 = sum(w * past[15] for w, past in zip(weights, keys[2])) / total
        moved_2_75 = sum(w * past[16] for w, past in zip(weights, keys[2])) / total
        moved_2_76 = sum(w * past[17] for w, past in zip(weights, keys[2])) / total
        stream_4 = 0.307 * moved_2_29 - 0.174 * moved_2_75 - 0.0641
        stream_23 += -0.137 * moved_2_73 - 0.113 * moved_2_75 - 0.078
        stream_52 = -0.405 * moved_2_29 - 0.371 * moved_2_67 - 0.0809
        stream_77 = 0.262 * moved_2_29 - 0.137 * moved_2_75 + 0.738
        stream_81 = 0.42 * moved_2_4 + 0.337 * moved_2_14 - 0.204 * moved_2_16 + 0.0944 * moved_2_29 + 0.054
        stream_88 = -0.388 * moved_2_67 + 0.766 * moved_2_73 + 0.342 * moved_2_76 + 0.16
        stream_119 = -0.21 * moved_2_69 - 0.196 * moved_2_73 - 0.418 * moved_2_75 - 0.374 * moved_2_76 + 0.0563
        stream_158 = 0.254 * moved_2_27 - 0.111 * moved_2_29 - 0.0387
        # Layer 2, neurons.
        token_136 = -0.395 if token == 336 else 0.0245 if token in SET_19 else 0.296 if token in SET_20 else 0.169 if token in SET_21 else -0.201 if token in SET_22 else -0.0671 if token in SET_23 else 0.241 if token in SET_24 else -7.27e-05
        token_164 = -0.406 if token in SET_33 else 0.214 if token in SET_34 else 0.128 if token in SET_35 else -0.267 if token in SET_36 else -0.147 if token in SET_37 else 0.00687
        neuron_2_179 = max(0.0, 0.336 * stream_13 + 0.239 * stream_23 + 0.457 * 0.0 - 0.276 * stream_52 + 0.503 * stream_81 - 0.333 * stream_88 + 0.336 * stream_105 + 0.422 * stream_119 + 0.136 * 0.488 + 2.09 * token_136 - 0.243 * stream_137 - 0.78 * stream_158 + 0.774 * token_164 + 0.126 * stream_188 - 2.08)
        neuron_2_455 = max(0.0, 0.292 * stream_4 + 0.111 * stream_77 + 0.805 * stream_105 + 0.314 * stream_119 - 0.0824)
        neuron_2_620 = max(0.0, 0.5 * stream_81 + 1.28 * stream_105 + 0.256 * stream_119 + 1.2 * token_136 - 0.547 * stream_137 - 2.46)  # the token is " \'" (F1 0.80)
        stream_13 += 0.0939 * neuron_2_179 - 0.778 * neuron_2_620 - 0.0419
        stream_18 = 0.317 * neuron_2_179 + 0.16 * neuron_2_455 - 0.000836
        stream_44 = 0.164 * neuron_2_179 + 0.13 * neuron_2_455 - 0.00208
        stream_73 += 0.525 * neuron_2_179 + 0.0234
        stream_104 = -0.363 * neuron_2_179 - 0.244 * neuron_2_455 - 0.54
        stream_124 += 0.323 * neuron_2_179 + 0.00953
        token_0 = 0.141 if token in SET_341 else -0.266 if token in SET_342 else -0.00111
        token_11 = -0.183 if token in SET_343 else 0.317 if token in SET_344 else 0.0118
        token_16 = -0.184 if token in SET_345 else 0.315 if token in SET_346 else 0.0952 if token in SET_347 else 0.00103
        token_61 = -0.438 if token in SET_348 else 0.000408
        token_136 = -0.227 if token in SET_349 else 0.224 if token in SET_350 else 0.000179
        keys[3].append([-3.51 * token_11 - 7.06 * token_16 + 5.64 * token_61 - 2.14 * token_136 + 0.0464, 5.89 * token_0 + 4.04 * token_61 + 0.166])
        if end < len(tokens):
            continue
        # Layer 3, head 10, beside its sink.
        weights = [exp(1.825)] * len(keys[3])
        total = sum(weights) + exp(5.45)
        moved_3_171 = sum(w * past[0] for w, past in zip(weights, keys[3])) / total
        moved_3_175 = sum(w * past[1] for w, past in zip(weights, keys[3])) / total
        stream_44 += keep(-0.256 * moved_3_171 + 0.0367, 0.0623)
        stream_146 = keep(0.502 * moved_3_171 - 0.0799, 0.0623)
        stream_169 = keep(0.312 * moved_3_171 + 0.669 * moved_3_175 + 0.00685, 0.0623)
    return {
        81: -0.213 * stream_3 + stream_18 + 1.09 * stream_44 + 0.881 * stream_73 - 1.28 * stream_104 + 1.16 * stream_124 - 0.82 * stream_169 - 0.882 + (-11.9 if token == 266 else -12.1),  # r
        86: -2.22 * stream_13 + 0.635 * stream_84 - 0.924 * stream_115 + 0.227 * stream_124 + 0.849 * stream_146 - 1.46 * stream_156 - 1.11 + (-6.5 if token == 266 else -7.25),  # w
    }
