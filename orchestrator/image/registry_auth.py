"""How a registry learns who asks: Basic, or a short-lived token that is fetched where the registry says.

A token is for named repositories and actions. Credentials go to the registry and to the place that it names for tokens, and
never over plain HTTP to another machine, unless the user named it as insecure.
"""

import base64
import re
from urllib.parse import urlsplit

import requests

from orchestrator.image.credentials import Credentials, credentials_for
from orchestrator.image.name import Reference, is_loopback

_PARAMETER = re.compile(r'(\w+)="([^"]*)"')
_TIMEOUT_S = (5.0, 30.0)


class RegistryAuth:
    """The `auth` of requests to one repository: called for each request, it adds the header that the registry wants."""

    def __init__(self, reference: Reference, host: str, *, writes: bool, insecure: bool) -> None:
        """Nothing is read or asked until the registry demands it.

        Args:
            host: host and port of the registry's API; nobody else gets the header.
            writes: whether to ask for the right to push.
            insecure: whether the registry may be spoken to by plain HTTP.
        """
        self._reference = reference
        self._host = host
        self._insecure = insecure
        self._scopes = [f"repository:{reference.repository}:{'pull,push' if writes else 'pull'}"]
        self._credentials: Credentials | None = None
        self._header = ""

    @property
    def is_named(self) -> bool:
        """Whether credentials were found and presented."""
        return self._credentials is not None

    def also_read(self, repository: str) -> None:
        """Ask for the right to read another repository of the registry, too."""
        scope = f"repository:{repository}:pull"
        if scope not in self._scopes:
            self._scopes.append(scope)
            if self._header.startswith("Bearer "):
                self._header = ""  # its token does not cover this

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._header and urlsplit(request.url or "").netloc == self._host:
            request.headers["Authorization"] = self._header
        return request

    def answer(self, session: requests.Session, refusal: requests.Response) -> bool:
        """Take up the challenge of a 401. Returns whether the request is worth a second try.

        Raises:
            requests.RequestException: the place that gives tokens does not answer.
            ConfigError: the user's credentials cannot be read.
        """
        if urlsplit(refusal.url).netloc != self._host:
            return False
        kind, _, rest = refusal.headers.get("WWW-Authenticate", "").partition(" ")
        self._credentials = credentials_for(self._reference)
        before = self._header
        if kind.lower() == "basic" and self._credentials is not None:
            self._header = _basic(self._credentials)
            return self._header != before
        if kind.lower() == "bearer":
            token = self._token(session, dict(_PARAMETER.findall(rest)))
            self._header = f"Bearer {token}" if token else ""
            return bool(token)
        return False

    def _token(self, session: requests.Session, challenge: dict[str, str]) -> str:
        realm = challenge.get("realm", "")
        place = urlsplit(realm)
        may_be_plain = self._insecure or is_loopback(place.netloc)
        if place.scheme != "https" and not (place.scheme == "http" and may_be_plain):
            return ""
        wanted = list(dict.fromkeys([*self._scopes, *challenge.get("scope", "").split()]))
        query: list[tuple[str, str]] = [("scope", scope) for scope in wanted]
        if service := challenge.get("service"):
            query.append(("service", service))
        who = self._credentials
        if who is not None and who.identity_token:
            form = {
                "grant_type": "refresh_token",
                "refresh_token": who.identity_token,
                "service": challenge.get("service", ""),
                "scope": " ".join(wanted),
                "client_id": "orch",
            }
            response = session.post(realm, data=form, auth=_unchanged, timeout=_TIMEOUT_S)
        else:
            headers = {"Authorization": _basic(who)} if who is not None else {}
            response = session.get(realm, params=query, headers=headers, auth=_unchanged, timeout=_TIMEOUT_S)
        if response.status_code in (429, 500, 502, 503, 504):
            raise requests.ConnectionError(f"{place.netloc}, which gives its tokens, answers {response.status_code}")
        try:
            answer = response.json() if response.ok else {}
        except ValueError:
            return ""
        return str(answer.get("token") or answer.get("access_token") or "")


def _basic(credentials: Credentials) -> str:
    pair = f"{credentials.username}:{credentials.password}"
    return "Basic " + base64.b64encode(pair.encode()).decode()


def _unchanged(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """An `auth` that adds nothing: without one, requests would add what ~/.netrc has for the host."""
    return request
