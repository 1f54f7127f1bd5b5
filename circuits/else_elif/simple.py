# The circuit for else_elif, simplified: right on 1,521,116,820 of 1,521,116,820 prompts, where the circuit itself is on 1
# mean pairwise loss 0.045, of the circuit itself 0.029. Tokens are ids; comments have their texts.


def answer(tokens):
    token = tokens[-1]
    return {
        220: -11.5454737,  #  
        264: -13.9627476,  #  t
        271: -6.8465388 + (-0.25 if token == 482 else -11.375),  # :\n
        284: -13.2114462,  #  c
        286: -14.0771112,  #  f
        290: -12.954106,  #  re
        296: -15.4587059,  #  o
        299: -13.3159689,  #  s
        300: -13.5240557,  #  p
        304: -13.5812121,  #  b
        315: -14.8595161,  #  w
        338: -15.3203897,  #  an
        378: -15.0139127,  #  st
        459: -16.7594747,  #  name
        466: -15.8994617,  #  file
        480: -16.1645143,  #  me
        503: -17.5642184,  #  value
        522: -14.220496,  #  g
        537: -16.1604659,  #  le
        640: -16.9462831,  #  pro
        643: -16.9032802,  #  line
        679: -4.97858394 + (-10.5 if token == 736 else -13.125),  #  key
        709: -3.92520572 + (-10.375 if token == 736 else -13.875),  #  path
        767: -16.070082,  #  un
        788: -6.46487591 + (-10.0 if token == 736 else -13.625),  #  result
        849: -4.8726262 + (-10.75 if token == 736 else -13.875),  #  text
        980: -5.04528389 + (-10.75 if token == 736 else -13.125),  #  la
        1017: -5.21413471 + (-10.75 if token == 736 else -14.125),  #  message
        1063: -4.40655057 + (-11.0 if token == 736 else -13.625),  #  po
        1094: -4.90958491 + (-11.375 if token == 736 else -13.875),  #  number
        1125: -5.46252204 + (-10.625 if token == 736 else -14.125),  #  event
        1128: -4.59943448 + (-9.5 if token == 736 else -13.125),  #  col
        1251: -5.95726317 + (-10.75 if token == 736 else -13.75),  #  node
        1375: -5.46292656 + (-10.25 if token == 736 else -14.0),  #  user
        1450: -17.671141,  #  item
        1493: -16.4025858,  #  part
        1535: -5.2717306 + (-10.5 if token == 736 else -13.625),  #  token
        1595: -5.5524232 + (-10.25 if token == 736 else -13.875),  #  count
        1672: -5.44514807 + (-10.625 if token == 736 else -14.125),  #  level
        1690: -5.70041884 + (-10.5 if token == 736 else -14.0),  #  field
        1788: -5.80997524 + (-11.25 if token == 736 else -14.25),  #  entry
        1818: -5.53273022 + (-10.875 if token == 736 else -14.0),  #  group
        1911: -4.90775168 + (-10.125 if token == 736 else -14.0),  #  order
    }
