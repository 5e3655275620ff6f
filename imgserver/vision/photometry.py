"""A dozen numbers that anybody can see in a photo, computed from the pixels that the backbone gets.

They stand behind the numbers of a backbone whose name ends in ``#photometry``, so that versions, heads, wire and files
know nothing of them: a feature is then a few numbers longer.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from crossmedia.imgserver.vision.decode import Pixels

Floats = npt.NDArray[np.float32]

# In the order of the feature. What is stored keeps its meaning for ever: another formula is another ending of the name.
ANCHORS = (
    "brightness",
    "warmth",
    "greenness",
    "saturation",
    "contrast",
    "sharpness",
    "colourfulness",
    "white background",
    "fill of the frame",
    "edge density",
    "entropy",
    "symmetry",
)
NEAR_WHITE = 0.94  # of full, the least of the three channels
LIKE_BACKGROUND = 0.1  # of full, the largest difference of a channel from the background
EDGE = 0.1  # of full grey a pixel, the least slope of an edge
BINS = 64  # of the histogram of grey levels


def photometry(pixels: Pixels) -> Floats:
    """The numbers of ``ANCHORS`` of each photo, shape (n, 12), from pixels, shape (n, size, size, 3), RGB.

    Squares of 2 x 2 pixels are first taken together, which takes out noise and three quarters of the work. With red,
    green, blue and grey (their mean) from 0 to 1:

    - brightness: mean grey; warmth: mean red minus mean blue; greenness: mean green minus the mean of red and blue;
    - saturation: mean of the largest minus the smallest channel of a pixel; contrast: deviation of grey;
    - sharpness: deviation of the Laplacian of grey (Pech-Pacheco et al., ICPR 2000, as a root);
    - colourfulness: that of Hasler and Süsstrunk (SPIE 2003): deviations and means of red - green and yellow - blue;
    - white background: share of pixels that are nearly white; fill of the frame: share of pixels that are not like the
      background, which is the median of the border;
    - edge density: share of pixels where grey has a slope; entropy: of the histogram of grey, as a share of the most;
    - symmetry: correlation of grey with its mirror image, left to right; 1 where a photo has one grey alone.

    Example:
        >>> import numpy as np
        >>> from crossmedia.imgserver.vision.photometry import ANCHORS, photometry
        >>> orange = np.full((1, 8, 8, 3), (255, 128, 0), dtype=np.uint8)
        >>> dict(zip(ANCHORS, photometry(orange)[0].round(2).tolist()))["warmth"]
        1.0
    """
    return np.stack([_of_photo(_halved(photo)) for photo in pixels]) if len(pixels) else _none()


def _none() -> Floats:
    return np.zeros((0, len(ANCHORS)), dtype=np.float32)


def _halved(photo: Pixels) -> Floats:
    """A photo of half the size, shape (3, h, w), from 0 to 1: means of 2 x 2 pixels; of one without such as it is."""
    high, wide = (side - side % 2 for side in photo.shape[:2])
    if not high or not wide:
        return np.ascontiguousarray(photo.transpose(2, 0, 1), dtype=np.float32) / np.float32(255)
    part = photo[:high, :wide].astype(np.uint16)
    rows = part[::2] + part[1::2]
    summed = rows[:, ::2] + rows[:, 1::2]
    return np.ascontiguousarray(summed.transpose(2, 0, 1), dtype=np.float32) / np.float32(4 * 255)


def _of_photo(colours: Floats) -> Floats:
    red, green, blue = colours
    means = colours.mean(axis=(1, 2), dtype=np.float64)
    grey = (red + green + blue) / 3
    least, most = np.minimum(np.minimum(red, green), blue), np.maximum(np.maximum(red, green), blue)
    return np.array(
        [
            means.mean(),
            means[0] - means[2],
            means[1] - (means[0] + means[2]) / 2,
            (most - least).mean(dtype=np.float64),
            grey.std(dtype=np.float64),
            _sharpness(grey),
            _colourfulness(red - green, (red + green) / 2 - blue),
            (least >= NEAR_WHITE).mean(),
            _fill(colours),
            _edges(grey),
            _entropy(grey),
            _symmetry(grey),
        ],
        dtype=np.float32,
    )


def _sharpness(grey: Floats) -> float:
    if min(grey.shape) < 3:
        return 0.0
    middle = grey[1:-1, 1:-1]
    around = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    return float((around - 4 * middle).std(dtype=np.float64))


def _colourfulness(red_green: Floats, yellow_blue: Floats) -> float:
    deviation = np.hypot(red_green.std(dtype=np.float64), yellow_blue.std(dtype=np.float64))
    return float(deviation + 0.3 * np.hypot(red_green.mean(dtype=np.float64), yellow_blue.mean(dtype=np.float64)))


def _fill(colours: Floats) -> float:
    border = np.concatenate([colours[:, 0], colours[:, -1], colours[:, 1:-1, 0], colours[:, 1:-1, -1]], axis=1)
    background = np.median(border, axis=1)[:, None, None]
    return float((np.abs(colours - background).max(axis=0) > LIKE_BACKGROUND).mean())


def _edges(grey: Floats) -> float:
    if min(grey.shape) < 3:
        return 0.0
    across, down = grey[1:-1, 2:] - grey[1:-1, :-2], grey[2:, 1:-1] - grey[:-2, 1:-1]
    return float((across * across + down * down > (2 * EDGE) ** 2).mean())  # over two pixels


def _entropy(grey: Floats) -> float:
    counts = np.bincount(np.minimum(grey * BINS, BINS - 1).astype(np.int64).ravel(), minlength=BINS)
    shares = counts[counts > 0] / grey.size
    return float(-(shares * np.log2(shares)).sum() / np.log2(BINS))


def _symmetry(grey: Floats) -> float:
    centred = grey - grey.mean(dtype=np.float64)
    spread = float((centred * centred).sum(dtype=np.float64))
    if spread < 1e-6 * grey.size:
        return 1.0
    return float((centred * centred[:, ::-1]).sum(dtype=np.float64)) / spread
