"""A minimal function: what a restore costs by itself."""


def handler(event, context):
    return {"function": "hello", "input": event["input"], "count": 1, "digest": "hello"}
