"""Code packages for the tests: from text, from the functions beside the tests, from the examples, and broken ones."""

import importlib.util
import io
import stat
import struct
import tempfile
import zipfile
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
FUNCTIONS = ROOT / "tests" / "functions"
BENCHMARKS = ROOT / "bench" / "functions"


def zip_of(files: dict, compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A zip of `{path: text or bytes}`, the same bytes for the same files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as target:
        for path, content in files.items():
            entry = zipfile.ZipInfo(path, date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = compression
            entry.external_attr = (stat.S_IFREG | 0o644) << 16
            target.writestr(entry, content)
    return buffer.getvalue()


def source(text: str, **more) -> bytes:
    """A package whose handler.py is `text`."""
    return zip_of({"handler.py": text, **more})


def answering(value: str) -> bytes:
    """A package whose function answers `value` and the environment's VALUE."""
    return source(
        f"import os\n\ndef handler(event, context):\n"
        f"    return {{'code': {value!r}, 'config': os.environ.get('VALUE')}}\n"
    )


@lru_cache
def function(name: str) -> bytes:
    """A function of tests/functions."""
    return zip_of({"handler.py": (FUNCTIONS / f"{name}.py").read_bytes()})


@lru_cache
def example(name: str) -> bytes:
    """An example, packaged as a user would."""
    return packaged(EXAMPLES / name)


def benchmark(name: str) -> bytes:
    """A function of the benchmarks, packaged as they do."""
    return packaged(BENCHMARKS / name, (BENCHMARKS / "inputs.py", BENCHMARKS / "functions.toml"))


def packaged(folder: Path, also: tuple = ()) -> bytes:
    """A folder, packaged by the examples' own tool."""
    spec = importlib.util.spec_from_file_location("example_package", EXAMPLES / "package.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with tempfile.TemporaryDirectory() as work:
        return module.build(folder, Path(work) / "package.zip", also).read_bytes()


def damaged() -> bytes:
    """A zip with one wrong bit in a file's data: only its checksum can tell."""
    content = b"def handler(event, context):\n    return 'sound'\n"
    data = zip_of({"handler.py": content}, zipfile.ZIP_STORED)
    assert data.count(b"'sound'") == 1
    return data.replace(b"'sound'", b"'round'")


def with_link(target: str, name: str = "link", through: str | None = None) -> bytes:
    """A package with a good handler and a symbolic link to `target`; then a file that would be written through it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("handler.py", "def handler(event, context):\n    return 'linked'\n")
        link = zipfile.ZipInfo(name)
        link.create_system = 3
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, target)
        if through:
            archive.writestr(f"{name}/{through}", "through the link")
    return buffer.getvalue()


@lru_cache
def bomb(megabytes: int) -> bytes:
    """A small zip that unpacks to `megabytes` MiB of zeros beside a good handler."""
    buffer = io.BytesIO()
    chunk = bytes(1 << 20)
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.writestr("handler.py", "def handler(event, context):\n    return 'boom'\n")
        with archive.open("zeros.bin", "w", force_zip64=True) as entry:
            for _ in range(megabytes):
                entry.write(chunk)
    return buffer.getvalue()


def lying(actual: int, declared: int) -> bytes:
    """A zip whose directory and header say `declared` bytes where `actual` bytes of zeros come out."""
    files = {"handler.py": "def handler(event, context):\n    return 'lie'\n", "zeros.bin": bytes(actual)}
    data = bytearray(zip_of(files))
    old, new = struct.pack("<I", actual), struct.pack("<I", declared)
    assert data.count(old) == 2, "the size should stand once in the header, once in the directory"
    return bytes(data.replace(old, new))
