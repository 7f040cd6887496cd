"""Lists of pictures with tags, folders of them, and what other programs wrote of them."""

from __future__ import annotations

import contextlib
import gzip
import io
import tempfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

from pydantic import TypeAdapter

from imagetag.audit import read_predictions
from imagetag.boards import BadEntry, Query, open_board, read_url
from imagetag.boards.links import one_spelling
from imagetag.csv_cells import quoted, unquoted
from imagetag.errors import UsageError
from imagetag.job import CommaList, checked_tag
from imagetag.predict import load_about
from imagetag.predict.sidecars import _with_tags
from imagetag.report import read_predictions as read_table
from imagetag.run.file import read_file
from imagetag.storage import open_storage
from imagetag.web import Client
from jobs.run import RunSettings
from tests.boards import check
from tests.fuzz.target import Target

_ROWS = (
    b"file_url,tags,id,md5,rating,width,height,score,created_at\n"
    b'https://a.example/1.png,"robot, sky",1,' + b"a" * 32 + b",safe,10,20,3,2024-05-31\n"
    b"https://a.example/2.png,fox,2,,e,,,,\n"
)
_MOST_UNPACKED = 1 << 20  # bytes
_TAGS = TypeAdapter(CommaList)
_OBJECTS = (
    b'{"url": "https://a.example/1.png", "tags": ["robot", "sky"], "id": 1, "score": 3}\n'
    b'{"URL": "https://a.example/%7e2.png", "tags": {"general": ["fox"]}, "rating": "e"}\n'
)


def _walk(spec: str) -> None:
    board = open_board(spec, cast("Client", None))
    for tags in ((), ("robot",)):
        query = Query(tags)
        assert board.count(query) is not None
        for post in board.page(query, below=None, limit=50):
            check(post) if post.page_url.startswith("http") else post.group.encode()


def _links(ending: str) -> Callable[[bytes], None]:
    def read(data: bytes) -> None:
        with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
            path = Path(folder) / f"list{ending}"
            path.write_bytes(data)
            _walk(f"links+{path}")

    return read


def _gzipped(data: bytes) -> None:
    """What unpacks to more takes time for each byte of that, as any list does."""
    with contextlib.suppress(EOFError, OSError, zlib.error):
        with gzip.open(io.BytesIO(data)) as stream:
            if len(stream.read(_MOST_UNPACKED)) == _MOST_UNPACKED:
                return
    _links(".csv.gz")(data)


def _side_car(data: bytes) -> None:
    """What is beside a picture in a folder: its first byte says of which kind."""
    ending = (".txt", ".caption", ".json")[data[0] % 3 if data else 0]
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        inside = Path(folder) / "robot"
        inside.mkdir()
        (inside / "1.png").write_bytes(b"")
        (inside / f"1{ending}").write_bytes(data[1:])
        _walk(f"folder+{folder}")


def _parquet() -> Iterable[bytes]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, Any] = {"url": ["https://a.example/1.png"], "tags": [["robot", "sky"]]}
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    yield file.getvalue()


def _spelling(data: bytes) -> None:
    url = one_spelling(read_url({"url": data.decode(errors="replace")}))
    assert one_spelling(url) == url


def _predictions(ending: str) -> Callable[[bytes], None]:
    def read(data: bytes) -> None:
        with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
            path = Path(folder) / f"rows{ending}"
            path.write_bytes(data)
            for one in read_predictions([str(path)], "robot").called:
                one.file.encode()

    return read


def _toml() -> Iterable[bytes]:
    yield b'board = "safebooru"\ntags = ["robot"]\n[scrape]\nlimit = 100\n[train]\nepochs = 3\n'


def _settings(data: bytes) -> None:
    """A pipeline's file, as far as its keys and its types."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        path = Path(folder) / "pipeline.toml"
        path.write_bytes(data)
        read_file(path, RunSettings)


def _tags(data: bytes) -> None:
    """What `--tags` says."""
    for tag in _TAGS.validate_python(data.decode(errors="surrogateescape")):
        checked_tag(tag)


def _with_sidecar(data: bytes) -> None:
    """A text beside a picture, of somebody's, to which tags are added."""
    text = data.decode(errors="replace")
    for style in ("hydrus", "kohya"):
        once = _with_tags(text, ["robot", "fox"], style)
        assert _with_tags(once, ["robot", "fox"], style) == once


def _cells(data: bytes) -> None:
    """A text that becomes a cell of CSV and is read back."""
    text = data.decode(errors="replace")
    assert unquoted(quoted(text)) == text


def _table(data: bytes) -> None:
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        path = Path(folder) / "predictions.csv"
        path.write_bytes(data)
        path.with_name(path.name + ".about.json").write_bytes(data)
        read_table(path)
        load_about(open_storage(folder), path.name)


def _row_group() -> Iterable[bytes]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    row = {"file": "a.png", "page_url": "", "tag": "robot", "probability": 0.9, "decision": True}
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([row]), file)
    yield file.getvalue()


def _long() -> Iterable[bytes]:
    yield b"file,page_url,tag,probability,decision,error\na.png,,robot,0.9,true,\n"


def _lines() -> Iterable[bytes]:
    yield b'{"file": "a.png", "tag": "robot", "probability": 0.9, "decision": true}\n'


TARGETS = (
    Target("csv", _links(".csv"), whole=lambda: [_ROWS]),
    Target("tsv", _links(".tsv"), whole=lambda: [_ROWS.replace(b",", b"\t")]),
    Target("csv-gz", _gzipped, whole=lambda: [gzip.compress(_ROWS, mtime=0)]),
    Target("jsonl", _links(".jsonl"), whole=lambda: [_OBJECTS]),
    Target("parquet", _links(".parquet"), whole=_parquet, quick=False),
    Target("side-car", _side_car, whole=lambda: [b"\0red, blue\nsky", b'\2{"tags": "a b"}']),
    Target("spelling", _spelling, (BadEntry,), lambda: [b"HTTP://A.example:80/%7ea/../b?c#d"]),
    Target("predictions-csv", _predictions(".csv"), whole=_long),
    Target("predictions-jsonl", _predictions(".jsonl"), whole=_lines),
    Target("predictions-parquet", _predictions(".parquet"), whole=_row_group),
    Target("predictions-table", _table, (), _long),
    Target("settings", _settings, whole=_toml),
    Target("tags", _tags, (UsageError, ValueError), lambda: [b"robot,fox", b'["a,b"]']),
    Target("sidecar-written", _with_sidecar, (), lambda: [b"robot\nsky\n", b"a, b"]),
    Target("csv-cells", _cells, (), lambda: [b"=a;-b", b"'=a"]),
)
