"""A page before the board that only a browser gets past, as anti-bot services put it there.

Its script works out a cookie, which takes some thousand steps, sets it and loads the page again.
The cookie is good for the user agent that was given the puzzle, and for no other.
"""

from __future__ import annotations

import hmac
import re
import secrets
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie

from imagetag.demo.pages import Answer

COOKIE = "board_clearance"

_ONE_IN = 4096  # so many numbers have to be tried, about
_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Just a moment...</title></head>
<body><h1>Checking your browser</h1>
<noscript><p>Enable JavaScript and cookies to continue.</p></noscript>
<script>
const puzzle = "PUZZLE";
function hash(text) {
  let value = 0x811c9dc5;
  for (const char of text) value = Math.imul(value ^ char.charCodeAt(0), 0x01000193) >>> 0;
  return value;
}
let number = 0;
while (hash(puzzle + number) % ONE_IN !== 0) number++;
document.cookie = "COOKIE=" + puzzle + "." + number + "; path=/; max-age=3600; SameSite=Lax";
if (document.cookie.includes("COOKIE=")) location.reload();
</script></body></html>
"""


class Interstitial:
    """Gives out puzzles and knows their answers."""

    def __init__(self) -> None:
        self._secret = secrets.token_bytes(32)

    def page(self, user_agent: str) -> Answer:
        """Return the page with the puzzle of a user agent."""
        text = _PAGE.replace("PUZZLE", self._puzzle(user_agent))
        text = text.replace("ONE_IN", str(_ONE_IN)).replace("COOKIE", COOKIE)
        return Answer(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "text/html; charset=UTF-8",
            text.encode(),
            policy="default-src 'none'; script-src 'unsafe-inline'",
        )

    def passed(self, user_agent: str, cookies: str) -> bool:
        """Return whether the cookies have the answer to this user agent's puzzle."""
        try:
            morsel = SimpleCookie(cookies).get(COOKIE)
        except CookieError:
            return False
        match = re.fullmatch(r"([0-9a-f]{32})\.([0-9]{1,9})", morsel.value if morsel else "")
        if match is None or not hmac.compare_digest(match[1], self._puzzle(user_agent)):
            return False
        return _hash(match[1] + match[2]) % _ONE_IN == 0

    def _puzzle(self, user_agent: str) -> str:
        # Headers come as Latin-1, whatever the client meant.
        text = user_agent.encode("latin-1", "replace")
        return hmac.new(self._secret, text, "sha256").hexdigest()[:32]


def _hash(text: str) -> int:
    """Return what the page's script computes: FNV-1a, 32 bits."""
    value = 0x811C9DC5
    for char in text:
        value = (value ^ ord(char)) * 0x01000193 % 2**32
    return value
