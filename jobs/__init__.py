"""The jobs: one module each, which is one command and one Kubernetes Job."""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # else `imagetag` alone would wait for pydantic
    from imagetag.job import JobSettings


def settings_of(job: str) -> type[JobSettings]:
    """Return the settings of a job by its name."""
    from imagetag.job import JobSettings

    module = importlib.import_module(f"{__name__}.{job}")
    [found] = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, JobSettings)
        and value.__module__ == module.__name__
    ]
    return found


def variables() -> set[str]:
    """Return the environment variables of all jobs, which share a ConfigMap's."""
    from imagetag.job import variables_of

    jobs = {module.name for module in pkgutil.iter_modules(__path__)} - {"cli"}
    return {variable for job in jobs for variable in variables_of(settings_of(job))}
