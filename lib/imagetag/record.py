"""What is stored as JSON, such as markers and results: the base of its models."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """It is not changed, and what later versions have added is passed over when it is read."""

    model_config = ConfigDict(frozen=True, extra="ignore")
