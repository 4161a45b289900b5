"""Applies a grayscale filter to a video of one second.

The clips are made at import, as files that lie there when a call comes. Every option that has a bit-exact way takes
it: the faster ways differ between processors.
"""

import os
import subprocess
import tempfile
from pathlib import Path

import imageio_ffmpeg

import inputs

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
FOLDER = Path(tempfile.mkdtemp())
FRAMES = 12
SOURCES = {"A": "testsrc", "B": "testsrc2"}
EXACT = ("-sws_flags", "+accurate_rnd+bitexact", "-flags", "+bitexact", "-fflags", "+bitexact", "-threads", "1")


def run(*arguments):
    """Runs ffmpeg, which speaks on its error output; gives what it wrote to the standard one."""
    command = [FFMPEG, "-nostdin", "-loglevel", "error", *arguments]
    return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True).stdout


def clip(name):
    """Makes the input of this name: one second of a moving test picture."""
    height = inputs.size("ffmpeg", {"input": name})
    path = FOLDER / f"{name}.avi"
    picture = f"{SOURCES[name]}=size={height * 4 // 3}x{height}:rate={FRAMES}:duration=1"
    run("-f", "lavfi", "-i", picture, "-c:v", "mjpeg", "-q:v", "3", *EXACT, "-y", os.fspath(path))
    return path


CLIPS = {name: clip(name) for name in SOURCES}


def handler(event, context):
    gray = run("-i", os.fspath(CLIPS[event["input"]]), "-vf", "format=gray", *EXACT, "-f", "rawvideo", "-")
    return inputs.answer("ffmpeg", event, len(gray), gray)
