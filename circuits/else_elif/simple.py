# The circuit for else_elif, simplified: right on 86,703,658,740 of 86,703,658,740 prompts, where the circuit itself is on
# mean pairwise loss 0.053, of the circuit itself 0.037. Tokens are ids; comments have their texts.


def answer(tokens):
    token = tokens[-1]
    return {
        220: -11.2100144,  #  
        264: -13.3760303,  #  t
        271: -5.79365567 + (-0.25 if token == 482 else -11.375),  # :\n
        284: -12.7585957,  #  c
        286: -13.547128,  #  f
        290: -12.5408302,  #  re
        296: -14.7922544,  #  o
        299: -12.7539473,  #  s
        300: -12.9966438,  #  p
        304: -13.0424401,  #  b
        315: -14.3292435,  #  w
        338: -14.6414571,  #  an
        378: -14.4744254,  #  st
        459: -15.9878714,  #  name
        466: -15.1977513,  #  file
        480: -15.5083229,  #  me
        503: -16.6615946,  #  value
        522: -13.6893622,  #  g
        537: -15.52412,  #  le
        640: -16.1651747,  #  pro
        643: -3.74278364 + (-11.0 if token == 736 else -13.875),  #  line
        679: -4.21296102 + (-10.5 if token == 736 else -13.125),  #  key
        709: -3.32157475 + (-10.375 if token == 736 else -13.875),  #  path
        767: -3.20110926 + (-11.0 if token == 736 else -13.5),  #  un
        788: -5.47068615 + (-10.0 if token == 736 else -13.625),  #  result
        849: -4.1232978 + (-10.75 if token == 736 else -13.875),  #  text
        980: -4.26940363 + (-10.75 if token == 736 else -13.125),  #  la
        1017: -4.41228802 + (-10.75 if token == 736 else -14.125),  #  message
        1063: -3.72889681 + (-11.0 if token == 736 else -13.625),  #  po
        1094: -4.15457289 + (-11.375 if token == 736 else -13.875),  #  number
        1125: -4.62247753 + (-10.625 if token == 736 else -14.125),  #  event
        1128: -3.89211841 + (-9.5 if token == 736 else -13.125),  #  col
        1251: -5.04113576 + (-10.75 if token == 736 else -13.75),  #  node
        1375: -16.7246717,  #  user
        1450: -4.38625869 + (-10.75 if token == 736 else -14.125),  #  item
        1493: -15.5790229,  #  part
        1535: -4.46102663 + (-10.5 if token == 736 else -13.625),  #  token
        1595: -4.6985534 + (-10.25 if token == 736 else -13.875),  #  count
        1672: -4.60777539 + (-10.625 if token == 736 else -14.125),  #  level
        1690: -4.82378978 + (-10.5 if token == 736 else -14.0),  #  field
        1788: -4.91649825 + (-11.25 if token == 736 else -14.25),  #  entry
        1818: -4.68188887 + (-10.875 if token == 736 else -14.0),  #  group
        1911: -4.15302157 + (-10.125 if token == 736 else -14.0),  #  order
    }
