"""What examples/report should answer, worked out without it: from the CSV, not from its code."""

import csv
import hashlib
from html.parser import HTMLParser
from pathlib import Path

CSV = Path(__file__).resolve().parents[2] / "examples" / "report" / "airports.csv"


def expected(sort: str = "iata", state: str | None = None, limit: int | None = None, descending: bool = False) -> list:
    """The rows of the table, as lists of text."""
    with open(CSV, encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    column = header.index(sort)
    number = sort in ("latitude", "longitude")
    if state is not None:
        rows = [row for row in rows if row[header.index("state")] == state]
    rows = sorted(rows, key=lambda row: float(row[column]) if number else row[column], reverse=descending)
    return rows if limit is None else rows[:limit]


class Cells(HTMLParser):
    """Collects the cells of a page's table body, row by row."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.rows: list = []
        self._cell: list | None = None

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.rows.append([])
        elif tag == "td":
            self._cell = []

    def handle_endtag(self, tag):
        if tag == "td" and self._cell is not None:
            self.rows[-1].append("".join(self._cell))
            self._cell = None

    def handle_data(self, data):
        if self._cell is not None:
            self._cell.append(data)


def cells(html: str) -> list:
    """The rows of a page that have cells."""
    parser = Cells()
    parser.feed(html)
    parser.close()
    return [row for row in parser.rows if row]


def checksum(rows: list) -> str:
    """One value for all cells in their order."""
    return hashlib.sha256("\x1e".join("\x1f".join(row) for row in rows).encode()).hexdigest()


def check(response: dict, **wishes) -> None:
    """Fails unless a report's answer shows exactly the expected cells."""
    assert response["statusCode"] == 200, response
    assert response["headers"]["content-type"].startswith("text/html"), response["headers"]
    check_page(response["body"], **wishes)


def check_page(html: str, **wishes) -> None:
    """The same for a page."""
    got, want = cells(html), expected(**wishes)
    assert len(got) == len(want), f"{len(got)} rows instead of {len(want)}"
    assert checksum(got) == checksum(want), next(
        f"row {at}: {row} instead of {other}" for at, (row, other) in enumerate(zip(got, want)) if row != other
    )
