"""Multiplies two square matrices.

They hold small whole numbers: then the product is exact, and the same whichever way the processor adds it up.
"""

import numpy

import inputs


def handler(event, context):
    rows = inputs.size("matmul", event)
    draw = inputs.content(event)
    left, right = (matrix(draw, rows) for _ in range(2))
    product = left @ right
    return inputs.answer("matmul", event, int(product.trace()), product.astype("<i8").tobytes())


def matrix(draw, rows):
    return numpy.frombuffer(draw.randbytes(rows * rows), dtype=numpy.uint8).reshape(rows, rows).astype(numpy.float64)
