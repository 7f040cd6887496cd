"""Answers in general: JSON, XML, HTML pages and errors."""

from __future__ import annotations

import html
import json
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from imagetag.demo.posts import Post
from imagetag.log import get_logger


@dataclass(frozen=True)
class Answer:
    """What goes back to a client; `policy` is a Content-Security-Policy of its own."""

    status: HTTPStatus
    media_type: str
    body: bytes
    location: str = ""
    policy: str = ""


def json_answer(value: Any, status: HTTPStatus = HTTPStatus.OK) -> Answer:
    """Return a value as JSON."""
    return Answer(status, "application/json; charset=utf-8", json.dumps(value).encode())


def xml_answer(element: str) -> Answer:
    """Return an XML document of one element."""
    text = f'<?xml version="1.0" encoding="UTF-8"?>\n{element}'
    return Answer(HTTPStatus.OK, "text/xml; charset=UTF-8", text.encode())


def escaped(value: object) -> str:
    """Return a value as HTML and XML have it, and as Gelbooru stores it."""
    return html.escape(str(value)).replace("&#x27;", "&#039;")


def error_page(status: HTTPStatus, text: str) -> Answer:
    """Return a page that says what went wrong."""
    body = f"<!DOCTYPE html><title>{status.phrase}</title><h1>{escaped(text)}.</h1>"
    return Answer(status, "text/html; charset=UTF-8", body.encode())


def unreadable_page(post: Post, error: Exception) -> Answer:
    """Return the page of a picture whose file cannot be read, and log why."""
    get_logger().warning("a picture cannot be read", post=post.id, error=str(error))
    return error_page(HTTPStatus.NOT_FOUND, "The picture cannot be read")
