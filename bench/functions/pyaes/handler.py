"""Encrypts a text with AES in counter mode, in Python, and decrypts it again."""

import pyaes

import inputs


def handler(event, context):
    draw = inputs.content(event)
    text = draw.randbytes(inputs.size("pyaes", event) // 2).hex().encode()
    key = draw.randbytes(32)
    sealed = pyaes.AESModeOfOperationCTR(key).encrypt(text)
    if pyaes.AESModeOfOperationCTR(key).decrypt(sealed) != text:
        raise ValueError("The text did not come back")
    return inputs.answer("pyaes", event, len(sealed), sealed)
