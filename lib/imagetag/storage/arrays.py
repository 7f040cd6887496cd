"""Arrays as an archive of NumPy's, such as checkpoints, features and heads: read and checked."""

from __future__ import annotations

import io
import zipfile

import numpy as np
from numpy.typing import NDArray

from imagetag.errors import one_line


def read_arrays(data: bytes, max_bytes: int | None = None) -> dict[str, NDArray[np.generic]]:
    """Return the arrays of an archive by their names.

    Args:
        data: the archive.
        max_bytes: of all that it unpacks to; None for any number.

    Raises:
        ValueError: if it is none, damaged, larger, or has something else in it.

    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if max_bytes is not None and size > max_bytes:
            raise ValueError(f"it unpacks to {size:,} bytes")
        found: dict[str, NDArray[np.generic]] = {}
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            for name in file.files:
                found[name] = file[name]
                if not isinstance(found[name], np.ndarray):  # a member of another kind, as bytes
                    raise ValueError(f"{name} is no array")
    except Exception as error:  # a damaged file makes zipfile and NumPy raise almost anything
        raise ValueError(one_line(error, 200)) from error
    return found
