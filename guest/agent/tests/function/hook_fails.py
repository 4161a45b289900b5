"""Its after-restore hook raises."""

import snapshot_restore_py


@snapshot_restore_py.register_after_restore
def after_restore():
    raise RuntimeError("no connection")


def handler(_event, _context):
    """Never called."""
