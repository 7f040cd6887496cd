"""Inputs of batches that are in memory already."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


class Arrays:
    """A source of batches: values by index, of which some cannot be read."""

    dtype: type[np.uint8] | type[np.float32] = np.float32

    def __init__(self, values: npt.NDArray[np.float32], readable: npt.NDArray[np.bool_]) -> None:
        self.shape = values.shape[1:]
        self._values, self._readable = values, readable

    def read(self, index: int, into: npt.NDArray[Any]) -> bool:
        """Write an input, and tell whether there is one."""
        into[...] = self._values[index]
        return bool(self._readable[index])
