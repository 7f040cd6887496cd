"""The audit job: what precision a run has on your pictures, proven by a person's verdicts."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Sequence
from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field

from imagetag.checks import checked_run_name
from imagetag.errors import Terminated, UsageError
from imagetag.job import (
    Contact,
    FolderPlace,
    Heartbeats,
    Places,
    StorageSettings,
    allow_private_hosts_field,
    by_field,
    check_page,
    checked_tag,
    contact_field,
    ignore_robots_field,
    max_rate_field,
    measured,
    port_field,
    run_job,
)
from imagetag.log import get_logger
from imagetag.storage import open_storage
from imagetag.web import Client

_THREADS = 16


class AuditSettings(StorageSettings):
    """Options of `imagetag audit`."""

    headings: ClassVar = {
        "The page": ("port",),
        "Pictures of servers": ("max_rate", "contact", "ignore_robots", "allow_private_hosts"),
    }

    predictions: Places = Field(
        (),
        description="what imagetag predict has written: FILE.csv, FILE.jsonl or FILE.parquet; "
        "those of all shards, by commas or by the option again",
    )
    tag: Annotated[str, AfterValidator(checked_tag)] = Field(
        description="whose decisions are audited"
    )
    target: float = Field(0.95, gt=0, le=1, description="the precision to prove")
    confidence: float = Field(0.95, gt=0, lt=1, description="how sure that must be")
    input: FolderPlace = Field(
        "",
        description="the folder or storage URL that the pictures are in; by default where they "
        "were predicted",
    )
    run: str = Field(
        "",
        description="the run that they are predictions of, where no about.json beside them tells",
    )
    by: str = by_field()
    port: int = port_field("audit")
    max_rate: float = max_rate_field()
    contact: Contact = contact_field()
    ignore_robots: bool = ignore_robots_field()
    allow_private_hosts: bool = allow_private_hosts_field()


def work(settings: AuditSettings) -> None:
    """Serve the page until the precision is proven or refuted and a signal says to stop."""
    check_page()
    if not settings.predictions:
        raise UsageError(
            "--predictions FILE is needed: what imagetag predict --output has written "
            "(IMAGETAG_PREDICTIONS)"
        )
    if settings.run:
        checked_run_name(settings.run)
    storage = open_storage(settings.storage, _THREADS, existing=True)

    from imagetag.audit import open_audit  # NumPy: not for --help
    from imagetag.review import ReviewServer

    with contextlib.ExitStack() as stack:

        def client() -> Client:
            made = Client(
                rate=settings.max_rate,
                concurrency=_THREADS,
                contact=settings.contact,
                allow_private_hosts=settings.allow_private_hosts,
                obey_robots=not settings.ignore_robots,
            )
            return stack.enter_context(made)

        session = open_audit(
            storage,
            settings.tag,
            settings.predictions,
            target=settings.target,
            confidence=settings.confidence,
            run=settings.run,
            base=settings.input,
            by=settings.by,
            client=client,
        )
        if session.result.outcome != "open":
            get_logger().info("already audited", tag=settings.tag, result=session.result.sentence)
            return
        heartbeats = Heartbeats(storage, "audit")
        with heartbeats, heartbeats.of(settings.tag), ReviewServer(session, settings.port) as page:
            get_logger().info(
                "auditing",
                tag=settings.tag,
                run=session.result.run,
                pictures=session.result.called,
                judged=session.result.judged,
            )
            print(page.url, flush=True)  # noqa: T201
            try:
                threading.Event().wait()
            except (KeyboardInterrupt, Terminated):
                found = session.finish()
                if found.outcome == "open":
                    raise
                measured(judged=found.judged)  # by that record status knows of the result
        get_logger().info("audited", tag=settings.tag, result=session.result.sentence)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; returns its exit code."""
    kept = "all that the page showed as saved is stored; run it again to go on"
    return run_job("audit", str(__doc__), AuditSettings, work, argv, kept=kept)


if __name__ == "__main__":
    sys.exit(main())
