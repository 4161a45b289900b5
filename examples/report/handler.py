"""Renders airports.csv as an HTML table, sorted and filtered as the caller asks.

Everything slow happens at import: the CSV is read and the template compiled before the snapshot is taken, so that
a call from a snapshot only renders.
"""

import csv
from pathlib import Path

from chameleon import PageTemplateFile

HERE = Path(__file__).parent
NUMBERS = frozenset({"latitude", "longitude"})
TRUE = frozenset({"1", "true", "yes"})

with open(HERE / "airports.csv", encoding="utf-8", newline="") as file:
    AIRPORTS = list(csv.DictReader(file))
COLUMNS = list(AIRPORTS[0])
TEMPLATE = PageTemplateFile(str(HERE / "report.html"))
TEMPLATE.cook_check()


class BadRequest(Exception):
    """What the caller asked for makes no sense; the text says what to change."""


def handler(event, context):
    """Takes `sort` (a column), `descending`, `state` (two letters) and `limit`, as event keys or as a query."""
    event = event if isinstance(event, dict) else {}
    wish = event.get("queryStringParameters") or event
    try:
        html = render(**parse(wish))
    except BadRequest as problem:
        return response(400, "text/plain; charset=utf-8", f"{problem}\n")
    return response(200, "text/html; charset=utf-8", html)


def response(status, content_type, body):
    return {"statusCode": status, "headers": {"content-type": content_type}, "body": body}


def parse(wish):
    sort = str(wish.get("sort") or "iata")
    if sort not in COLUMNS:
        raise BadRequest(f"sort={sort} names no column: use one of {', '.join(COLUMNS)}")
    limit = wish.get("limit")
    try:
        limit = len(AIRPORTS) if limit is None else int(limit)
    except (TypeError, ValueError):
        limit = -1
    if limit < 0:
        raise BadRequest(f"limit={wish.get('limit')} is not a number of rows: use 0 or more")
    state = wish.get("state")
    return {
        "sort": sort,
        "descending": str(wish.get("descending", "")).lower() in TRUE,
        "state": None if state is None else str(state).upper(),
        "limit": limit,
    }


def render(sort, descending, state, limit):
    rows = [row for row in AIRPORTS if state is None or row["state"] == state]
    rows.sort(key=lambda row: float(row[sort]) if sort in NUMBERS else row[sort], reverse=descending)
    title = "Airports" if state is None else f"Airports in {state}"
    return TEMPLATE(title=title, rows=rows[:limit], columns=COLUMNS, numbers=NUMBERS, total=len(AIRPORTS))
