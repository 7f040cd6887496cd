"""The PDQ hash is the one that others compute."""

from __future__ import annotations

import numpy as np

from imagetag.imaging.twins import pdq


def test_hashes_are_those_of_pdqhash() -> None:
    y, x = np.mgrid[0:64, 0:64]
    waves = 127 + 60 * np.sin(x * x / 170 + y / 9) + 50 * np.cos(y * y / 300 - x / 5)
    slope = 2 * x + 1.5 * y + 20 * np.sin(x * y / 50)
    noise = (7 * x ^ 13 * y) % 256
    hashes = pdq(np.stack([waves, slope, noise]).clip(0, 255).astype(np.float32))
    # By pdqhash 0.2.7, of these as grey bytes; its first bit is the last here.
    assert [np.packbits(bits).tobytes().hex() for bits in hashes] == [
        "f1a5f32a1e5a0ed7a45af0940edab4551edaa4551edaa4551e5aa4551e5aa4d5",
        "f000801f81ff87f00fc31f0f1e3c3c7138e739ce33987333666666cc6cd96d92",
        "19361b3618381b3018321930e3cfe3d7e3c7a356e3d70350f4875ca7e4575cbe",
    ]


def test_no_hash_has_more_than_half_of_the_bits() -> None:
    flat = np.full((1, 64, 64), 200, np.float32)
    assert pdq(flat).sum() <= 128
