"""Variables of the environment: their names, what they say, and those that Kubernetes sets."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_settings import EnvSettingsSource

ENV_PREFIX = "IMAGETAG_"
# What has the prefix and is no option: the folder of baked-in weights, and a switch of the tests.
OTHER_VARIABLES = {"IMAGETAG_IMAGENET_FOLDER", "IMAGETAG_NO_SKIPS"}
# What Kubernetes sets in pods for a Service called `imagetag` or `imagetag-...`, and its values
# where one has the name of a setting: IMAGETAG_PORT.
_SERVICE_LINK = re.compile(
    r"IMAGETAG_(\w+_)?(SERVICE_(HOST|PORT(_\w+)?)|PORT(_\d+_(TCP|UDP|SCTP)(_(ADDR|PORT|PROTO))?)?)"
)
_SERVICE_URL = re.compile(r"(tcp|udp|sctp)://\S+")


def env_name(field: str) -> str:
    """Return the environment variable of a field: `image_size` is `IMAGETAG_IMAGE_SIZE`."""
    return ENV_PREFIX + field.replace(".", "_").upper()


def completion_index() -> int:
    """Return this pod's index in an Indexed Job of Kubernetes, 0 elsewhere.

    Raises:
        ValueError: if the variable JOB_COMPLETION_INDEX is no index.

    """
    text = os.environ.get("JOB_COMPLETION_INDEX", "").strip() or "0"
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise ValueError(f"JOB_COMPLETION_INDEX must be a number from 0, and it is {text[:100]!r}")
    return int(text)


def values_of_variables(fields: Collection[str], prefix: str) -> dict[str, str]:
    """Return the values of those fields whose variables are set, and not to nothing."""
    found = {name: os.environ.get(env_name(prefix + name), "").strip() for name in fields}
    return {
        name: value
        for name, value in found.items()
        if value and not is_service_link(prefix + name, value)
    }


class VariablesSource(EnvSettingsSource):
    """The variables, without those of a setting's name that Kubernetes has set for a Service."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Return the value of a field's variable, none if Kubernetes has set it."""
        value, key, is_complex = super().get_field_value(field, field_name)
        return None if is_service_link(field_name, value) else value, key, is_complex


def is_of_kubernetes(variable: str) -> bool:
    """Tell whether a variable is called as one that Kubernetes sets in pods for a Service."""
    return _SERVICE_LINK.fullmatch(variable) is not None


def is_service_link(field: str, value: object) -> bool:
    """Tell whether the variable of a field has what Kubernetes gives it for a Service."""
    return (
        isinstance(value, str)
        and is_of_kubernetes(env_name(field))
        and _SERVICE_URL.fullmatch(value.strip()) is not None
    )
