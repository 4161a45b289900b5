"""Small programs in Rust, which need nothing where they run."""

import subprocess
from pathlib import Path

TARGET = "x86_64-unknown-linux-gnu"
_OPTIONS = ["target-feature=+crt-static", "opt-level=s", "strip=symbols"]
_COMMAND = ["rustc", "--edition", "2024", "--target", TARGET, *(word for option in _OPTIONS for word in ("-C", option))]


def compile(text: str, folder: Path, name: str) -> Path:
    """Compiles a program in a folder; the file to run."""
    source, program = folder / f"{name}.rs", folder / name
    source.write_text(text)
    subprocess.run([*_COMMAND, "-o", program, source], check=True, timeout=300)
    return program
