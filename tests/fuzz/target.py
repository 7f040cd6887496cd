"""What a target of fuzzing is, and the bounds that it is held to."""

from __future__ import annotations

import contextlib
import resource
import signal
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from imagetag.errors import ImagetagError

CORPUS = Path(__file__).parent / "corpus"
_SECONDS = 5.0  # of a processor, for one input of some kilobytes
_MEMORY = 2 << 30  # bytes of addresses, beyond what there is: each thread has some for itself


class TooSlow(BaseException):
    """An input took more of a processor's time than any may. No Exception: nothing eats it."""


@dataclass(frozen=True)
class Target:
    """Something that reads bytes from outside.

    Args:
        name: what it is called, and its folder of the corpus.
        read: reads them; what it gives back must be sound, or it raises an AssertionError.
        errors: what it may raise besides, as its documentation says.
        whole: makes inputs that it must take, to begin from.
        quick: whether it is in this process, some thousand times a second.

    """

    name: str
    read: Callable[[bytes], object]
    errors: tuple[type[Exception], ...] = (ImagetagError,)
    whole: Callable[[], Iterable[bytes]] = tuple
    quick: bool = True

    def corpus(self) -> list[Path]:
        """Return the files of inputs that are kept."""
        return sorted(path for path in (CORPUS / self.name).glob("*") if path.is_file())

    def seeds(self) -> list[bytes]:
        """Return what fuzzing begins from."""
        return [*self.whole(), *(path.read_bytes() for path in self.corpus())]

    def takes(self, data: bytes) -> bool:
        """Tell whether bytes are read and not refused.

        Raises:
            Exception: what it raises that it must not.
            TooSlow: if it takes too long.
            MemoryError: if it takes too much.

        """
        with bounds():
            try:
                self.read(data)
            except self.errors:
                return False
        return True


@contextlib.contextmanager
def bounds() -> Iterator[None]:
    """Bound a block's time and its memory, in the main thread of a process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + _MEMORY, hard))
    handler = signal.signal(signal.SIGVTALRM, _too_slow)
    signal.setitimer(signal.ITIMER_VIRTUAL, _SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, handler)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _too_slow(_number: int, _frame: FrameType | None) -> None:
    raise TooSlow(f"more than {_SECONDS:.0f} seconds of a processor")


def place_of(error: BaseException) -> str:
    """Return what was raised and by which line of ours, the last that was under way."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/imagetag/" in frame.filename] or list(frames)
    where = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "nowhere"
    return f"{type(error).__name__} at {where}"
