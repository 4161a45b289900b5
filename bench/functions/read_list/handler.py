"""Reads one byte of every page of a large list that was made at import: memory that is there and not zero."""

import inputs

PAGE = 4096
# Less than a page by what the interpreter puts in front of the bytes.
LIST = [
    page.to_bytes(8, "little") * ((PAGE - 64) // 8) for page in range(1, inputs.TABLE["read_list"]["a"] + 1)
]


def handler(event, context):
    place = 8 if event["input"] == "A" else 9
    seen = bytes(entry[place] for entry in LIST)
    return inputs.answer("read_list", event, len(seen), seen)
