"""The counts of a job for Prometheus: a file for node_exporter's textfile collector, or a push.

The library, prometheus-client, is an extra: it is imported where one of both is asked for.
"""

from __future__ import annotations

import importlib.util
import os
import threading
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from imagetag import __version__
from imagetag.checks import shown_url
from imagetag.counters import MOVED, Counters
from imagetag.errors import UsageError, one_line
from imagetag.log import get_logger

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric

EVERY = 15.0  # seconds between two exports
_TIMEOUT = 5.0  # of a push, seconds


def check_metrics(file: str, push: str) -> None:
    """Check what metrics are asked for, before any work.

    Raises:
        UsageError: if the library is not installed, or the URL is none that it can push to.

    """
    if not (file or push):
        return
    if importlib.util.find_spec("prometheus_client") is None:
        raise UsageError(
            f"{'--metrics-file' if file else '--metrics-push'} needs prometheus-client: install "
            "image-tag-classification[metrics]"
        )
    if push and not (_is_gateway(push) and shown_url(push) == push):
        raise UsageError(
            f"--metrics-push {shown_url(push)!r}: take a push gateway's http:// or https:// "
            "URL, without a user or password: the library would not send them"
        )


def _is_gateway(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets or a port that are none
        return False


def told_apart_by(storage: str, board: str) -> dict[str, str]:
    """Return labels of what a job of this name works on, without what would be empty.

    Args:
        storage: a folder, or a URL.
        board: a name, or an engine and where it is; empty for none.

    """
    place = shown_url(storage)
    if place == storage and "://" not in storage:
        place = str(Path(storage).absolute())
    labels = {
        "storage": _label(place),
        "board": _label(shown_url(board)),
        "namespace": os.environ.get("POD_NAMESPACE", ""),
    }
    return {name: value for name, value in labels.items() if value}


def _label(place: str) -> str:
    """Return a place as a label has it: a folder's name may be no text."""
    text = place.encode(errors="replace").decode()
    return text.rstrip("/") if "://" in text else text


class Exporter:
    """Exports the counts of a job at intervals from a thread of its own, and at its end.

    What cannot be written or pushed is told once, and fails nothing.

    Args:
        job: its name.
        shard: which pod's share.
        apart: labels that tell it from others of its name, in their order.
        counters: of it.
        file: is replaced each time, in one step; empty for none.
        push: the URL of a push gateway; empty for none.
        every: seconds between two exports.

    """

    def __init__(
        self,
        job: str,
        shard: int,
        apart: Mapping[str, str],
        counters: Counters,
        file: str,
        push: str,
        every: float = EVERY,
    ) -> None:
        self._job, self._shard, self._apart, self._counters = job, shard, apart, counters
        self._file, self._push, self._every = file, push, every
        self._exit_code: int | None = None
        self._end = threading.Event()
        self._failed = False
        self._registry = self._new_registry() if file or push else None
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)

    def begin(self) -> None:
        """Begin to export, if anything is asked for."""
        if self._registry is not None:
            self._thread.start()

    def end(self, exit_code: int) -> None:
        """Export how it ended."""
        self._end.set()
        if self._registry is not None:
            self._thread.join(_TIMEOUT)
            self._exit_code = exit_code
            self._export()

    def _run(self) -> None:
        while True:
            self._export()
            if self._end.wait(self._every):
                return

    def _export(self) -> None:
        from prometheus_client import push_to_gateway, write_to_textfile

        assert self._registry is not None  # noqa: S101 - as it is exported
        try:
            if self._file:
                write_to_textfile(self._file, self._registry)
            if self._push:
                # In place of all of the last run's: its exit code is not this one's.
                push_to_gateway(
                    self._push,
                    job=f"imagetag_{self._job}",
                    registry=self._registry,
                    grouping_key={"instance": str(self._shard), **self._apart},
                    timeout=_TIMEOUT,
                )
        except Exception as error:
            if not self._failed:
                get_logger().warning("metrics are not exported", error=one_line(error))
            self._failed = True

    def _new_registry(self) -> CollectorRegistry:
        from prometheus_client import CollectorRegistry

        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        return registry

    def describe(self) -> list[Metric]:
        """Return nothing: what there is comes with each collection."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the counts as Prometheus's metrics; the library calls it."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        found = self._counters.read()
        labelled = {"command": self._job, "shard": str(self._shard), **self._apart}
        mine, shared = list(labelled.values()), list(labelled)

        def one(
            kind: type[GaugeMetricFamily | CounterMetricFamily], name: str, text: str, value: float
        ) -> Metric:
            family = kind(f"imagetag_{name}", text, labels=shared)
            family.add_metric(mine, value)
            return family

        gauge = partial(one, GaugeMetricFamily)
        counter = partial(one, CounterMetricFamily)

        info = GaugeMetricFamily("imagetag_job_info", "The job.", labels=[*shared, "version"])
        info.add_metric([*mine, __version__], 1)
        yield info
        started = found.started.timestamp()
        yield gauge("job_started_timestamp_seconds", "When it began.", started)
        yield gauge("job_updated_timestamp_seconds", "When this was told.", time.time())
        if self._exit_code is not None:
            yield gauge("job_exit_code", "How it ended; absent while it works.", self._exit_code)

        yield counter("job_processor_seconds", "Of all its threads.", found.processor_seconds)
        yield counter("job_requests", "To servers that are no storage.", found.requests)
        moved = CounterMetricFamily(
            "imagetag_job_bytes",
            "Fetched from servers, read from storage, written to it.",
            labels=[*shared, "direction"],
        )
        for how in MOVED:
            moved.add_metric([*mine, how], found.moved[how])
        yield moved
        tags = CounterMetricFamily("imagetag_tags", "Gone through.", labels=[*shared, "result"])
        tags.add_metric([*mine, "done"], found.tags["done"])
        tags.add_metric([*mine, "failed"], found.tags["failed"])
        yield tags

        labels = [*shared, "stage"]
        items = CounterMetricFamily(
            "imagetag_stage_items", "Done in a stage.", labels=[*labels, "unit", "result"]
        )
        took = CounterMetricFamily("imagetag_stage_seconds", "Spent in a stage.", labels=labels)
        bytes_ = CounterMetricFamily(
            "imagetag_stage_bytes", "Moved in a stage.", labels=[*labels, "direction"]
        )
        for name, stage in found.stages.items():
            if stage.unit or stage.done:
                items.add_metric([*mine, name, stage.unit, "done"], stage.done)
                items.add_metric([*mine, name, stage.unit, "failed"], stage.failed)
            took.add_metric([*mine, name], stage.seconds)
            for how in MOVED:
                bytes_.add_metric([*mine, name, how], stage.moved[how])
        yield from (items, took, bytes_)
