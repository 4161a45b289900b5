"""Deserializes a JSON document, adds up what is in it and serializes it again."""

import json

import inputs

# Length of one entry of the document, about.
ENTRY = 100


def handler(event, context):
    entries = json.loads(document(event))
    for entry in entries:
        entry["total"] = sum(entry["values"])
    text = json.dumps(entries, sort_keys=True, separators=(",", ":"))
    return inputs.answer("json", event, len(entries), text.encode())


def document(event):
    draw = inputs.content(event)
    entries = [
        {
            "id": number,
            "name": draw.randbytes(8).hex(),
            "active": draw.random() < 0.5,
            "values": [int(draw.random() * 10000) for _ in range(6)],
        }
        for number in range(max(1, inputs.size("json", event) * 1000 // ENTRY))
    ]
    return json.dumps(entries)
