"""Writes every page of a large anonymous region: memory that nobody used before."""

import mmap

import inputs

PAGE = 4096


def handler(event, context):
    pages = inputs.size("mmap", event)
    mark = ord(event["input"])
    with mmap.mmap(-1, pages * PAGE) as region:
        for at in range(0, pages * PAGE, PAGE):
            region[at] = mark
        ends = bytes((region[0], region[1], region[(pages - 1) * PAGE]))
    return inputs.answer("mmap", event, pages, ends)
