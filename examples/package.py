#!/usr/bin/env python3
"""Makes the zip of an example, as `zip -r` after `pip install --target` would, but the same bytes each time.

    python3 examples/package.py examples/report report.zip

Wheels are kept in $MOTE_CACHE/wheels (or ~/.cache/mote/wheels): only the first time needs the package index.
"""

import argparse
import compileall
import hashlib
import os
import py_compile
import shutil
import stat
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

# Where the code lies inside the microVM: what tracebacks of compiled files should show.
TASK_ROOT = "/var/task"
SKIP = frozenset({"README.md", "requirements.txt", "__pycache__"})


def cache() -> Path:
    """Folder of what is fetched once."""
    root = os.environ.get("MOTE_CACHE") or Path.home() / ".cache" / "mote"
    return Path(root)


def pip(*arguments: str) -> None:
    """Runs pip quietly; its output only shows when it fails."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}")


def install(requirements: Path, target: Path) -> None:
    """Installs the pinned packages into `target`, from the cache whenever it has them."""
    text = requirements.read_bytes()
    wheels = cache() / "wheels" / hashlib.sha256(text).hexdigest()[:16]
    if not wheels.is_dir():
        wheels.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=wheels.parent) as folder:
            fetched = Path(folder) / "wheels"
            # Fetches wheels; makes those of packages whose requirement says --no-binary.
            pip(
                "wheel", "--only-binary=:all:", "--use-pep517", "--wheel-dir", str(fetched),
                "--requirement", str(requirements),
            )
            try:
                fetched.rename(wheels)
            except OSError:
                if not wheels.is_dir():  # else somebody else was quicker
                    raise
    pip(
        "install", "--no-index", "--no-deps", "--target", str(target), "--no-compile", "--no-warn-script-location",
        *sorted(map(str, wheels.glob("*.whl"))),
    )
    # Command line programs are of no use inside a function, and name this machine's interpreter.
    shutil.rmtree(target / "bin", ignore_errors=True)


def build(example: Path, out: Path, also: tuple = ()) -> Path:
    """Packages the folder `example`, and the files `also` beside its own, into the zip `out`."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        requirements = example / "requirements.txt"
        if requirements.is_file():
            install(requirements, tree)
        for entry in sorted(example.iterdir()):
            if entry.name in SKIP:
                continue
            if entry.is_dir():
                shutil.copytree(entry, tree / entry.name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copyfile(entry, tree / entry.name)
        for file in also:
            shutil.copyfile(file, tree / file.name)
        # The code is read-only at run time: without byte code in the package every cold start compiles anew.
        # "Unchecked" because the modification times inside an image say nothing.
        compiled = compileall.compile_dir(
            tree, quiet=2, stripdir=str(tree), prependdir=TASK_ROOT,
            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        )
        if not compiled:
            raise RuntimeError(f"{example} has files that are no Python of version {sys.version.split()[0]}")
        archive(tree, out)
    return out


def archive(tree: Path, out: Path) -> None:
    """Zips a folder's contents: sorted, with one fixed date and plain permissions."""
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as target:
        for path in sorted(path for path in tree.rglob("*") if path.is_file()):
            entry = zipfile.ZipInfo(path.relative_to(tree).as_posix(), date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            executable = path.stat().st_mode & stat.S_IXUSR
            entry.external_attr = (stat.S_IFREG | (0o755 if executable else 0o644)) << 16
            target.writestr(entry, path.read_bytes())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("example", type=Path, help="folder of the example")
    parser.add_argument("out", type=Path, help="zip to write")
    parser.add_argument("--with", dest="also", type=Path, nargs="+", default=[], metavar="FILE", help="further files")
    arguments = parser.parse_args()
    if not arguments.example.is_dir():
        parser.error(f"{arguments.example} is no folder")
    build(arguments.example, arguments.out, tuple(arguments.also))
    print(f"{arguments.out}: {arguments.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
