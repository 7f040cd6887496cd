"""Fields of settings that several jobs have, and that not all of a class's do."""

from __future__ import annotations

import importlib.util
from typing import Any

from pydantic import Field, SecretStr

from imagetag.checks import shown_url
from imagetag.dataset import THRESHOLD_FRACTION, VALIDATION_FRACTION
from imagetag.errors import UsageError
from imagetag.job.variables import completion_index
from imagetag.storage import CACHE_FOLDER


def pod_index_field(description: str) -> Any:
    """Return the field of an option that an Indexed Job of Kubernetes gives each of its pods."""
    return Field(
        default_factory=completion_index,
        ge=0,
        description=f"{description}, from 0",
        json_schema_extra={"default": "JOB_COMPLETION_INDEX or 0"},
    )


def mlflow_field() -> Any:
    """Return the field of the option `--mlflow`."""
    return Field(
        "",
        description="log each run to this MLflow server, or to a folder; needs "
        "image-tag-classification[mlflow]",
    )


def check_mlflow(uri: str) -> None:
    """Check that what `--mlflow` needs is there, if it is asked for.

    Raises:
        UsageError: if it is not installed.

    """
    if uri and importlib.util.find_spec("mlflow") is None:
        raise UsageError(
            f"--mlflow {shown_url(uri)} (IMAGETAG_MLFLOW) needs MLflow: install "
            "image-tag-classification[mlflow]"
        )


def by_field() -> Any:
    """Return the field of the option `--by`."""
    return Field("", max_length=100, description="your name, stored with each verdict")


def port_field(what: str) -> Any:
    """Return the field of the option `--port` of a page about something."""
    return Field(
        0,
        ge=0,
        le=65535,
        description=f"the port to listen on; 0 takes the same for the same {what}, or another "
        "where that is taken",
    )


def check_page() -> None:
    """Check that what serves a page to a person is there.

    Raises:
        UsageError: if it is not installed.

    """
    if any(importlib.util.find_spec(name) is None for name in ("flask", "waitress")):
        raise UsageError(
            "the page needs Flask and waitress: install image-tag-classification[review]"
        )


def cache_folder_field() -> Any:
    """Return the field of the option `--cache-folder`."""
    return Field(
        CACHE_FOLDER,
        description="local copies of images and weights, shared by all runs",
        json_schema_extra={"default": "imagetag-cache in the temporary folder"},
    )


def image_size_field() -> Any:
    """Return the field of the option `--image-size` of what trains on a tag's pictures."""
    return Field(
        "auto", description="input size, HEIGHTxWIDTH in pixels; auto is what explore recommended"
    )


def resize_field(bars: str) -> Any:
    """Return the field of the option `--resize`, with what letterboxed images get."""
    return Field(
        "letterbox",
        description=f"how images are fitted into it: with {bars}, cut on both sides, or without "
        "keeping their aspect",
    )


def validation_fraction_field() -> Any:
    """Return the field of the option `--validation-fraction`."""
    return Field(
        VALIDATION_FRACTION,
        gt=0,
        lt=1,
        description="share of the train split that is held out for validation",
    )


def threshold_fraction_field() -> Any:
    """Return the field of the option `--threshold-fraction`."""
    return Field(
        THRESHOLD_FRACTION,
        gt=0,
        lt=1,
        description="share of the train split that is kept for evaluate to choose the threshold "
        "on: it has no say in the training",
    )


def threshold_from_field() -> Any:
    """Return the field of the option `--threshold-from`, whose type is `ThresholdFrom`."""
    return Field(
        "held-out",
        description="with --features: held-out chooses it on --threshold-fraction of the train "
        "split, out-of-fold on all of it, which is learned from too: each image is judged by a "
        "head that has seen nothing of its group",
    )


def contact_field() -> Any:
    """Return the field of the option `--contact`, whose type is `Contact`."""
    return Field("", description="an address or URL in the user agent, for the board's owner")


def board_user_field() -> Any:
    """Return the field of the option `--board-user`."""
    return Field("", description="user name or id for the board's API")


def board_key_field() -> Any:
    """Return the field of the option `--board-key`."""
    return Field(
        SecretStr(""),
        description="API key of that user; better in its variable than on the command line",
        json_schema_extra={"default": "none"},
    )


def max_rate_field() -> Any:
    """Return the field of the option `--max-rate`."""
    return Field(
        5.0,
        gt=0,
        le=1_000_000,
        description="requests a second for the whole job, divided by --shard-count",
    )


def concurrency_field() -> Any:
    """Return the field of the option `--concurrency`."""
    return Field(16, ge=1, le=256, description="downloads under way at once")


def ignore_robots_field() -> Any:
    """Return the field of the option `--ignore-robots`."""
    return Field(
        False,
        description="do not ask robots.txt and X-Robots-Tag: with the owner's leave, or for your "
        "own board",
    )


def allow_private_hosts_field() -> Any:
    """Return the field of the option `--allow-private-hosts`."""
    return Field(
        False, description="connect to loopback and private addresses too: for your own board"
    )
