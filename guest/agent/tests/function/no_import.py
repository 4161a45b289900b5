"""Fails while it is imported."""

import a_module_that_is_not_there  # noqa: F401


def handler(_event, _context):
    """Never called."""
