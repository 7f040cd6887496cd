"""The AWS settings and credentials, as boto3 reads them, with failures told as what they are.

boto3 asks a third party for credentials (an agent of the pod's, STS, a command, a file) in the
middle of an operation on S3: what goes wrong there must not be taken for S3's.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import boto3
import botocore.session
from botocore.awsrequest import AWSRequest
from botocore.credentials import DeferredRefreshableCredentials
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    PartialCredentialsError,
)
from botocore.httpsession import URLLib3Session
from botocore.parsers import ResponseParserError

from imagetag.errors import ImagetagError, TransientError, UsageError, one_line
from imagetag.log import get_logger
from imagetag.storage.answers import (
    NETWORK,
    error_code,
    passes,
    refuses_for_now,
    shown,
    unreachable,
)
from imagetag.storage.base import AccessDenied

_FULL_MACHINE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC)  # that passes by itself

# Sources of credentials, as botocore calls them.
_AGENT, _METADATA, _COMMAND = "container-role", "iam-role", "custom-process"
_TOKEN_FILES = {
    _AGENT: "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "assume-role-with-web-identity": "AWS_WEB_IDENTITY_TOKEN_FILE",
}
_AGENT_HOST, _METADATA_HOST = "http://169.254.170.2", "http://169.254.169.254"
_METADATA_SECONDS = 1.0  # as botocore: where there is no such service, each asks in vain


def new_session() -> boto3.Session:
    """Return a session of boto3 whose credentials fail with our errors.

    Raises:
        UsageError: if the files of settings cannot be read.

    """
    _trim_environment()
    logging.getLogger("botocore.credentials").addFilter(_without_traceback)
    session = botocore.session.get_session()
    asked = _Asked(session)
    with _told(asked, "the AWS settings"):
        chain = session.get_component("credential_provider").providers
    session.register_component("credential_provider", _Providers(session, chain, asked))
    return boto3.Session(botocore_session=session)


def _trim_environment() -> None:
    """Cut off the blanks and line breaks that `echo` and editors leave at the ends of values."""
    for name, value in os.environ.items():
        if name.startswith("AWS_") and value != value.strip():
            os.environ[name] = value.strip()
            get_logger().warning("blanks or a line break at the ends are left out", setting=name)


def _without_traceback(record: logging.LogRecord) -> bool:
    """Let botocore warn that a renewal failed; why is ours to tell, without the secrets in it."""
    record.exc_info = None
    return True


class _Asked:
    """Remembers which service was asked for credentials last, and with which status it answered."""

    def __init__(self, session: Any) -> None:
        self.url, self.status = "", 0
        for service in ("sts", "sso", "sso-oidc", "signin"):
            session.register(f"before-send.{service}", self._note)
            session.register(f"before-parse.{service}", self._note_answer)

    def _note(self, request: Any, **_: Any) -> None:
        self.url, self.status = request.url.partition("?")[0], 0

    def _note_answer(self, response_dict: Any, **_: Any) -> None:
        self.status = int(response_dict["status_code"])

    def name_of(self, source: str) -> str:
        """Return who gives the credentials of a source, for the text of an error."""
        if source == _AGENT:
            relative = os.environ.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")
            full = os.environ.get("AWS_CONTAINER_CREDENTIALS_FULL_URI", "")
            return f"the agent {_AGENT_HOST + relative if relative else full}"
        if source == _METADATA:
            return "the instance's metadata service"
        if source == _COMMAND:
            return "the command credential_process"
        return self.url or source


class _Providers:
    """botocore's sources of credentials in their order, in the place of its own resolver."""

    def __init__(self, session: Any, chain: Sequence[Any], asked: _Asked) -> None:
        self._session, self._chain, self._asked = session, chain, asked

    def load_credentials(self) -> Credentials | None:
        """Return the first credentials there are, None if there are none."""
        for provider in self._chain:
            with _told(self._asked, provider.METHOD):
                credentials = provider.load()
            if credentials is not None:
                return Credentials(credentials, provider, self._asked)
        _check_files(self._session)
        _check_metadata_service(self._session)
        return None


class Credentials:
    """botocore's credentials, which may be fetched or renewed whenever they are asked for.

    Attributes:
        number: how often others have taken their place.

    """

    def __init__(self, credentials: Any, provider: Any, asked: _Asked) -> None:
        self._credentials, self._provider, self._asked = credentials, provider, asked
        self._had = not isinstance(credentials, DeferredRefreshableCredentials)
        self._renewing = threading.Lock()
        self.number = 0

    def renew(self, number: int) -> bool:
        """Ask their source anew, as they are refused before their time; tell if it has others.

        Args:
            number: of those that were refused: another thread may have renewed them already.

        Raises:
            TransientError, UsageError: as `get_frozen_credentials`.

        """
        with self._renewing:
            if number != self.number:
                return True
            old = self.get_frozen_credentials()
            with _told(self._asked, self._credentials.method, had=True):
                found = self._provider.load()
                if found is None or found.get_frozen_credentials() == old:
                    return False
            self._credentials = found
            self.number += 1
            get_logger().warning("the credentials had expired; there are new ones")
            return True

    def get_frozen_credentials(self) -> Any:
        """Return the credentials of this moment.

        Raises:
            TransientError: if who gives them does not do so for now.
            UsageError: if it refuses, or is not set up right.

        """
        with _told(self._asked, self._credentials.method, had=self._had):
            frozen = self._credentials.get_frozen_credentials()
        self._had = True
        return frozen

    def __getattr__(self, name: str) -> Any:
        return getattr(self._credentials, name)


def _check_files(session: Any) -> None:
    """Look at the files that may have credentials: botocore passes over what it cannot read.

    Raises:
        UsageError: if there is one that cannot be read.

    """
    for variable in ("credentials_file", "config_file"):
        path = Path(session.get_config_variable(variable)).expanduser()
        try:
            path.open("rb").close()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise UsageError(f"credentials: {path}: {error.strerror}") from error


def _check_metadata_service(session: Any) -> None:
    """Ask why the metadata service gave no credentials: botocore takes a failure for an absence.

    Raises:
        TransientError: if it is there and fails for now.

    """
    if os.environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
        return
    given = session.get_config_variable("ec2_metadata_service_endpoint")
    base = (given or _METADATA_HOST).rstrip("/")
    http = URLLib3Session(timeout=_METADATA_SECONDS)
    headers = {"x-aws-ec2-metadata-token-ttl-seconds": "60"}

    def ask(method: str, path: str) -> str:
        request = AWSRequest(method=method, url=f"{base}/latest/{path}", headers=headers)
        response = http.send(request.prepare())
        if passes(response.status_code):
            raise TransientError(
                f"credentials: the metadata service {base} fails for now "
                f"(status {response.status_code})"
            )
        return str(response.text) if response.status_code == 200 else ""

    try:
        headers = {"x-aws-ec2-metadata-token": ask("PUT", "api/token")}
        roles = "meta-data/iam/security-credentials/"
        if role := ask("GET", roles).strip():
            ask("GET", roles + role)
    except NETWORK as error:
        if given:
            raise unreachable(
                error,
                f"credentials: the metadata service {base}",
                "AWS_EC2_METADATA_SERVICE_ENDPOINT and the network",
            ) from error


@contextlib.contextmanager
def _told(asked: _Asked, source: str, *, had: bool = False) -> Iterator[None]:
    """Turn what goes wrong with a source of credentials into our errors.

    Args:
        asked: knows who was asked.
        source: of the credentials.
        had: it has given some before, so that it is set up right.

    """
    try:
        yield
    except ImagetagError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _FULL_MACHINE:
            raise
        raise _failure(error, source, asked, had) from shown(error)


def _failure(error: Exception, source: str, asked: _Asked, had: bool) -> ImagetagError:
    who = asked.name_of(source)
    if complaint := _complaint_of_token(source):
        return UsageError(f"credentials: {complaint}; the pod's ServiceAccount is to mount it")
    if isinstance(error, PartialCredentialsError):
        return AccessDenied(f"credentials: {one_line(error)}")
    if isinstance(error, ClientError):
        return _refusal(error, who)
    if isinstance(error, NETWORK):
        return unreachable(error, f"credentials: {who}", "that address and the network")
    if isinstance(error, OSError):
        return UsageError(f"credentials: {error.filename or who}: {error.strerror or error}")
    text = f"credentials: {who}: {one_line(error)}"
    if isinstance(error, CredentialRetrievalError):
        said = str(error.kwargs["error_msg"]).removeprefix("Error retrieving metadata: ")
        text = f"credentials: {who} gives none: {one_line(said, 200) or 'it says nothing'}"
        status = re.search(r"non 200 response (\d+)", said)
        passing = passes(int(status[1])) if status else "Received error when attempting" in said
        return TransientError(text) if passing or (had and not status) else UsageError(text)
    if isinstance(error, BotoCoreError):
        return UsageError(text)
    if isinstance(error, RuntimeError):  # what was given has expired already
        return TransientError(f"{text}; check this machine's clock too")
    if isinstance(error, ResponseParserError):
        # Its text has what could not be parsed, which may have had the secret in it.
        text = f"credentials: {who} gives no answer of AWS, but status {asked.status}"
        return TransientError(text) if had or passes(asked.status) else UsageError(text)
    text = f"credentials: {who} gives none that can be understood"
    text += f" ({type(error).__name__}: {one_line(error, 150)})"
    return TransientError(text) if had else UsageError(text)


def _refusal(error: ClientError, who: str) -> ImagetagError:
    """Return what an error of STS, or of another service that gives credentials, means."""
    code = error_code(error)
    message = str(error.response.get("Error", {}).get("Message") or "")
    # STS says so too where it could not fetch the identity provider's keys.
    if refuses_for_now(error) or "verification key" in message:
        return TransientError(f"credentials: {who} fails for now ({code})")
    kind = AccessDenied if "AccessDenied" in code else UsageError
    told = f": {one_line(message, 200)}" if message else ""
    return kind(f"credentials: {who} refuses {error.operation_name} ({code}){told}")


def _complaint_of_token(source: str) -> str:
    """Say what is wrong with the file of a source's token, "" if nothing is."""
    name = _TOKEN_FILES.get(source, "")
    path = os.environ.get(name)
    if not path:
        return ""
    try:
        token = Path(path).read_text()
    except (OSError, ValueError) as error:
        return f"the token file {path} ({name}): {getattr(error, 'strerror', None) or 'no text'}"
    if not token.strip():
        return f"the token file {path} ({name}) is empty"
    if source == _AGENT and token != token.strip():
        return f"the token file {path} ({name}) has a line break or blanks at its ends"
    return ""
