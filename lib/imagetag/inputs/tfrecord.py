"""An image as a record of a TFRecord file, and such a file read a record at a time.

TensorFlow's own reader would read what is passed over too, and takes files by their names.
"""

from __future__ import annotations

import os
import struct
from typing import BinaryIO

import tensorflow as tf
from google.protobuf.message import DecodeError

from imagetag.errors import InputError

_HEADER = struct.Struct("<QI")  # of a record: the length of its data, and a checksum of that
_MAX_RECORD = 1 << 30  # bytes; one has a JPEG of some thousand
_FOOTER = 4  # bytes: a checksum of the data


def make_example(jpeg: bytes, target: int, md5: str) -> bytes:
    """Return a record: `jpeg`, `target` (1 if the picture has the tag, else 0), and `md5`."""
    feature = {
        "jpeg": tf.train.Feature(bytes_list=tf.train.BytesList(value=[jpeg])),
        "target": tf.train.Feature(int64_list=tf.train.Int64List(value=[target])),
        "md5": tf.train.Feature(bytes_list=tf.train.BytesList(value=[md5.encode()])),
    }
    example = tf.train.Example(features=tf.train.Features(feature=feature))
    # Else the order of the three is another each time.
    return bytes(example.SerializeToString(deterministic=True))


def read_example(record: bytes) -> tuple[bytes, int]:
    """Return the JPEG and the target that `make_example` made a record of.

    Raises:
        InputError: if it made none.

    """
    try:
        feature = tf.train.Example.FromString(record).features.feature
        return feature["jpeg"].bytes_list.value[0], feature["target"].int64_list.value[0]
    except (DecodeError, IndexError) as error:
        raise InputError(
            "a shard of the pack has a record that is no picture: delete the pack and run "
            "imagetag pack again"
        ) from error


def next_record(file: BinaryIO, *, needed: bool) -> bytes | None:
    """Return a TFRecord's data, nothing of it if it is not needed, None if there is no whole one.

    Its checksums are passed over: the file's digest was right.
    """
    header = file.read(_HEADER.size)
    if len(header) < _HEADER.size:
        return None
    length, _ = _HEADER.unpack(header)
    if length > _MAX_RECORD:
        return None
    if not needed:
        file.seek(length + _FOOTER, os.SEEK_CUR)
        return b""
    data = file.read(length)
    return data if len(data) == length and len(file.read(_FOOTER)) == _FOOTER else None
