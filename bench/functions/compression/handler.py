"""Writes a file, compresses it with zlib and with bzip2, and writes the results beside it."""

import bz2
import os
import tempfile
import zlib

import inputs

WORDS = 500


def handler(event, context):
    with tempfile.TemporaryDirectory() as folder:
        source = os.path.join(folder, "text")
        with open(source, "wb") as file:
            file.write(text(event))
        packed = []
        for name, compress in (("zlib", zlib.compress), ("bzip2", bz2.compress)):
            with open(source, "rb") as file:
                packed.append(compress(file.read(), 9))
            with open(os.path.join(folder, name), "wb") as file:
                file.write(packed[-1])
    return inputs.answer("compression", event, sum(map(len, packed)), b"".join(packed))


def text(event):
    """Words from a small vocabulary: compressible, as text is."""
    draw = inputs.content(event)
    wanted = inputs.size("compression", event) * 1000
    vocabulary = [draw.randbytes(3).hex() for _ in range(WORDS)]
    count = wanted // 7 + 1
    return " ".join(draw.choices(vocabulary, k=count)).encode()[:wanted]
