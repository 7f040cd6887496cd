"""Extractors that are ONNX files, which ONNX Runtime runs: the extra `onnx`."""

from __future__ import annotations

import importlib.util
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imagetag.errors import UsageError, one_line
from imagetag.features.extractor import ExtractorRecord, Unusable

_NUMBERS: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(uint8)": np.uint8,
}
_GPU = "CUDAExecutionProvider"
_ERRORS = 3  # the least severity that is logged


@dataclass(frozen=True)
class OnnxInput:
    """How a file takes pictures.

    Attributes:
        name: of the input.
        dtype: of its numbers.
        channels_first: whether it is `(batch, 3, height, width)`.
        size: (height, width) where they are fixed.
        batch: how many pictures at once, None for any number.

    """

    name: str
    dtype: type[np.generic]
    channels_first: bool
    size: tuple[int | None, int | None]
    batch: int | None


class OnnxExtractor:
    """Runs an ONNX file, on each GPU where ONNX Runtime can use them.

    Args:
        record: of the extractor.
        path: of the file.
        batch_size: pictures that each device takes at once.
        devices: how many GPUs there are, or processors to try it out.

    Raises:
        Unusable: if the file cannot be loaded, or takes no pictures.

    """

    def __init__(
        self, record: ExtractorRecord, path: Path, batch_size: int, devices: int = 1
    ) -> None:
        self.record = record
        self._sessions = [open_session(path, device) for device in range(devices)]
        self._input, self._output = describe(self._sessions[0], record.output)
        record.check_input(np.dtype(self._input.dtype).name)
        self._share = self._input.batch or batch_size
        self.batch_size = self._share * devices
        self._pool = ThreadPoolExecutor(devices, thread_name_prefix="onnx")

    def features(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the features of some pictures, as `Extractor` says."""

        def of_share(start: int) -> NDArray[np.float32]:
            session = self._sessions[start // self._share % len(self._sessions)]
            share = pixels[start : start + self._share]
            views = [share, share[:, :, ::-1]][: self.record.views]
            return np.stack([self._of_view(session, view) for view in views], axis=1)

        found = list(self._pool.map(of_share, range(0, len(pixels), self._share)))
        shape = 0, self.record.views, self.record.channels
        return np.concatenate(found) if found else np.zeros(shape, np.float32)

    def _of_view(self, session: Any, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        factors, offsets = self.record.scale()
        # Of one shape, as in training: what a picture gets does not depend on how many there are.
        batch = np.zeros((self._share, *pixels.shape[1:]), np.float32)
        batch[: len(pixels)] = pixels * factors + offsets
        if self.record.channel_order == "bgr":
            batch = batch[..., ::-1]
        if self._input.channels_first:
            batch = batch.transpose(0, 3, 1, 2)
        given = np.ascontiguousarray(batch, self._input.dtype)
        (output,) = session.run([self._output], {self._input.name: given})
        if output.ndim == 4:
            output = output.mean(axis=(2, 3) if self._input.channels_first else (1, 2))
        return np.asarray(output[: len(pixels)], np.float32)


def open_session(path: Path, device: int = 0) -> Any:
    """Return an ONNX Runtime session of a file.

    Raises:
        UsageError: if ONNX Runtime is not installed.
        Unusable: if it cannot load the file.

    """
    onnxruntime = _runtime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS
    providers: list[Any] = ["CPUExecutionProvider"]
    if uses_gpus():
        providers.insert(0, (_GPU, {"device_id": device}))
    try:
        return onnxruntime.InferenceSession(str(path), options, providers)
    except Exception as error:  # its own classes have no base of their own
        raise Unusable(
            f"it is no ONNX file that can be loaded by itself ({one_line(error, 200)})"
        ) from error


def uses_gpus() -> bool:
    """Tell whether ONNX Runtime is one that can use GPUs.

    Raises:
        UsageError: if it is not installed.

    """
    return _GPU in _runtime().get_available_providers()


def _runtime() -> Any:
    if importlib.util.find_spec("onnxruntime") is None:
        raise UsageError("an ONNX file needs ONNX Runtime: install image-tag-classification[onnx]")
    import onnxruntime  # an extra

    return onnxruntime


def describe(session: Any, output: str = "") -> tuple[OnnxInput, str]:
    """Return how a file takes pictures, and the name of the output that has features.

    Args:
        session: of the file.
        output: its name; by default the only one that can be features.

    Raises:
        Unusable: if it takes no pictures, or gives no such output.

    """
    inputs, outputs = session.get_inputs(), session.get_outputs()
    one = inputs[0] if len(inputs) == 1 else None
    shape = [side if isinstance(side, int) else None for side in one.shape] if one else []
    last, first = shape[3:] == [3], len(shape) == 4 and shape[1] == 3
    if one is None or one.type not in _NUMBERS or last == first:
        takes = ", ".join(f"{given.name} {given.type} {given.shape}" for given in inputs)
        raise Unusable(
            f"it takes {takes}, and not one batch of pictures (batch, height, width, 3) or "
            "(batch, 3, height, width)"
        )
    usable = [
        given.name
        for given in outputs
        if given.type in _NUMBERS and len(given.shape) in (2, 4) and "uint8" not in given.type
    ]
    if (output and output not in usable) or (not output and len(usable) != 1):
        gives = ", ".join(f"{given.name} {given.type} {given.shape}" for given in outputs)
        wanted = f"the output {output!r}" if output else "one output"
        raise Unusable(
            f"it gives {gives[:300]}, and {wanted} of floating-point numbers with 2 or 4 axes is "
            "wanted: name it by --output-name"
        )
    height, width = shape[2:4] if first else shape[1:3]
    found = OnnxInput(one.name, _NUMBERS[one.type], first, (height, width), shape[0])
    return found, output or usable[0]
