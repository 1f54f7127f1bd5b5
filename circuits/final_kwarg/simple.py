# The circuit for final_kwarg, simplified: right on 693,600 of 693,600 prompts, where the circuit itself is on 693,600;
# mean pairwise loss 0.055, of the circuit itself 0.044. Tokens are ids; comments have their texts.

SET_1 = {87, 267, 292, 353, 543, 676, 788}  # 'x', 'er', 'it', 'pe', 'able', 'ord', ' result'


def answer(tokens):
    seen, token = tokens, tokens[-1]
    return {
        309: -7.6763715 + (-7.98623853 if token in SET_1 else -5.8266369),  # ):\n
        617: -11.0964077,  # =None
    }
