"""Answers events as the packaged function does, without a microVM: the reference the other answers are held against.

    python3 native.py package.zip '{"input": "A"}' …    # JSON events; one JSON answer a line
"""

import json
import os
import sys
import tempfile
import zipfile


def unpack(package, folder):
    """Unpacks the zip with the permissions it names: functions may bring programs."""
    with zipfile.ZipFile(package) as archive:
        for entry in archive.infolist():
            path = archive.extract(entry, folder)
            os.chmod(path, entry.external_attr >> 16 & 0o777)


def main():
    with tempfile.TemporaryDirectory() as folder:
        unpack(sys.argv[1], folder)
        # Nothing but the package is there to import, as in the microVM.
        sys.path[:] = [folder, *(entry for entry in sys.path if not entry.endswith(("-packages", "functions")))]
        from handler import handler

        for event in sys.argv[2:]:
            print(json.dumps(handler(json.loads(event), None)), flush=True)


if __name__ == "__main__":
    main()
