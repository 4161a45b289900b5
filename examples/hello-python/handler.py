"""The smallest useful function: greets whoever calls it, over the Lambda API or in a browser."""


def handler(event, context):
    """`{"name": "Ada"}`, or `/function/hello?name=Ada`, gives a greeting and says which call this was."""
    event = event if isinstance(event, dict) else {}
    query = event.get("queryStringParameters") or {}
    name = event.get("name") or query.get("name") or "world"
    return {
        "message": f"Hello, {name}!",
        "function": context.function_name,
        "request_id": context.aws_request_id,
    }
