"""Gelbooru Beta 0.2 on boards that have switched its API off: only the pages tell of posts."""

from __future__ import annotations

from imagetag.demo.gelbooru02 import Gelbooru02
from imagetag.demo.pages import Answer, xml_answer
from imagetag.demo.protocol import Request


class ClosedGelbooru02(Gelbooru02):
    """The board's answers; its API refuses with status 200, in XML even if asked for JSON."""

    def answer(self, request: Request) -> tuple[str, Answer]:
        """Answer a request for a list or a post's page."""
        if request.params.get("page") == "dapi":
            return "api", xml_answer(
                '<response success="false" reason="Search error: API offline. Feel free to browse '
                'the site the old fashioned way for now."/>'
            )
        return super().answer(request)
