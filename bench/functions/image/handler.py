"""Rotates a JPEG image, makes a thumbnail of it and saves both as JPEG."""

import io

from PIL import Image

import inputs

# Pixels that share one random colour: with single ones the file would be as large as the pixels.
GRAIN = 4
ANGLE = 30
QUALITY = 90


def handler(event, context):
    picture = Image.open(io.BytesIO(photograph(event)))
    picture.load()
    rotated = picture.rotate(ANGLE, resample=Image.Resampling.BILINEAR, expand=True)
    small = rotated.resize((rotated.width // 4, rotated.height // 4), resample=Image.Resampling.BOX)
    files = [jpeg(rotated), jpeg(small)]
    return inputs.answer("image", event, sum(map(len, files)), b"".join(files))


def photograph(event):
    """A JPEG file of random blotches. `scale` is of its area."""
    scale = event.get("scale", 1)
    height = round(inputs.size("image", {**event, "scale": 1}) * scale**0.5)
    width = height * 4 // 3
    grains = (width // GRAIN, height // GRAIN)
    pixels = inputs.content(event).randbytes(grains[0] * grains[1] * 3)
    return jpeg(Image.frombytes("RGB", grains, pixels).resize((width, height), Image.Resampling.BILINEAR))


def jpeg(image):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()
