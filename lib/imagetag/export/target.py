"""Where an export goes: a file or a folder, here or in a storage, that may be there already."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from imagetag.errors import UsageError
from imagetag.export.contents import FOLDER_FILE, Contents, Format, read_contents
from imagetag.runs import EXPORT_MARKER
from imagetag.storage import LocalStorage, is_key, open_storage

_ENDINGS: dict[str, Format] = {".keras": "keras", ".onnx": "onnx", ".tflite": "litert"}
_NEEDED = {"onnx": ("onnx", "tf2onnx")}  # packages of the extra of that name


def format_of(output: str, asked: Format | None = None) -> Format:
    """Return the format that an output's name asks for: a SavedModel if it has no ending of others.

    Args:
        output: the name.
        asked: which format is wanted; None for what the name says.

    Raises:
        UsageError: if the name says another, or what the format needs is not installed.

    """
    ending = Path(output).suffix.lower()
    found = _ENDINGS.get(ending, "saved_model")
    if asked is not None and asked != found:
        needed = [name for name, kind in _ENDINGS.items() if kind == asked]
        wanted = f"must end in {needed[0]}" if needed else f"is a folder's, and ends in {ending}"
        raise UsageError(f"--format {asked}: the name of --output {wanted}: {output!r}")
    for package in _NEEDED.get(found, ()):
        if importlib.util.find_spec(package) is None:
            raise UsageError(
                f"--output {output}: {package} is needed; install "
                f"image-tag-classification[{found}], or write another format"
            )
    return found


class Target:
    """The place of an export.

    Args:
        output: a file's path or URL, or of a SavedModel a folder's.
        kind: the format.

    Raises:
        UsageError: if there can be none, or what is there has not been written by `imagetag export`
            and is left alone.

    """

    def __init__(self, output: str, kind: Format) -> None:
        self._kind = kind
        if kind == "saved_model":
            self._storage, self._name = open_storage(output, option="--output"), ""
            self.url = self._storage.url
        else:
            above, _, self._name = output.rpartition("/")
            root = above or ("/" if output.startswith("/") else ".")
            self._storage = open_storage(root, option="--output")
            self.url = f"{self._storage.url}/{self._name}"
            if not is_key(self._name):
                raise UsageError(f"--output {output[:300]!r}: no file can have that name")
            if isinstance(self._storage, LocalStorage) and Path(self.url).is_dir():
                raise UsageError(f"--output {self.url} is a folder: name a file in it")

    def contents(self, scratch: Path) -> Contents | None:
        """Return what is there, all of it, by an earlier export.

        Args:
            scratch: a folder for what has to be fetched.

        Raises:
            UsageError: if somebody else's is there.

        """
        told = self._name or FOLDER_FILE
        if self._storage.stat(told) is None:
            if self._name or next(iter(self._storage.list()), None) is None:
                return None
            found = None
        else:
            self._storage.download(told, scratch / told)
            found = read_contents(scratch / self._name, self._kind)
            (scratch / told).unlink()
        if found is None:
            raise UsageError(
                f"--output {self.url} is there already, and nothing in it says that imagetag "
                "export wrote it: name another, or remove it first"
            )
        whole = self._name or self._storage.stat(EXPORT_MARKER) is not None
        return found if whole else None

    def store(self, path: Path) -> int:
        """Put a file, or a folder's files, there, instead of an earlier export.

        Of a folder, what tells whose it is comes first, and the file that makes it a SavedModel
        last: what a kill leaves behind is none, and known.

        Returns:
            How many bytes they have.

        """
        size = self._store(path)
        self._storage.tidy()
        return size

    def _store(self, path: Path) -> int:
        if self._name:
            self._storage.upload(path, self._name)
            return path.stat().st_size
        self._storage.delete(EXPORT_MARKER)
        files = {file.relative_to(path).as_posix(): file for file in path.rglob("*")}
        files = {key: file for key, file in files.items() if file.is_file()}
        turn = {FOLDER_FILE: 0, EXPORT_MARKER: 2}
        for key in sorted(files, key=lambda key: (turn.get(key, 1), key)):
            self._storage.upload(files[key], key)
        return sum(file.stat().st_size for file in files.values())
