"""SOAP login(), up to API version 64. Source: SOAP API Developer Guide, "login()"."""

import re
from html import escape, unescape
from typing import TYPE_CHECKING

from starlette.responses import Response

from local_org import grants, users
from local_org.errors import OAuthError
from local_org.users import User

if TYPE_CHECKING:
    from local_org.data_api import Call
    from local_org.org import Org

PREFIX = "/services/Soap/"
_KINDS = {"u": "urn:partner.soap.sforce.com", "c": "urn:enterprise.soap.sforce.com"}
LAST_VERSION = 64
_ENVELOPE = (
    '<?xml version="1.0" encoding="UTF-8"?><soapenv:Envelope '
    'xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/" xmlns="{namespace}" '
    'xmlns:sf="urn:fault.partner.soap.sforce.com" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">'
    "<soapenv:Body>{body}</soapenv:Body></soapenv:Envelope>"
)


def answer(org: "Org", call: "Call") -> Response:
    """The answer of a log-in, or the fault that refuses it."""
    kind, _, rest = call.path[len(PREFIX) :].partition("/")
    version = rest.split("/")[0]
    text = call.body.decode("utf-8", "replace")
    if (
        kind not in _KINDS
        or not re.fullmatch(r"\d+\.0", version)
        or float(version) > LAST_VERSION
        or _element(text, "login") is None
    ):
        return _fault("UNSUPPORTED_API_VERSION", "Invalid Api version specified on URL")
    try:
        user = users.log_in(org, _element(text, "username") or "", _element(text, "password") or "")
    except OAuthError:
        message = "Invalid username, password, security token; or user locked out."
        return _fault("INVALID_LOGIN", message)
    return _logged_in(org, call, user, kind, version)


def _element(text: str, name: str) -> str | None:
    """The text of the first element of this name, whatever its namespace prefix."""
    match = re.search(rf"<(?:\w+:)?{name}(?:\s[^>]*)?>(.*?)</(?:\w+:)?{name}>", text, re.DOTALL)
    return None if match is None else unescape(match[1])


def _fault(code: str, message: str) -> Response:
    body = (
        f"<soapenv:Fault><faultcode>sf:{code}</faultcode><faultstring>{code}: {escape(message)}</faultstring>"
        f'<detail><sf:LoginFault xsi:type="sf:LoginFault"><sf:exceptionCode>{code}</sf:exceptionCode>'
        f"<sf:exceptionMessage>{escape(message)}</sf:exceptionMessage></sf:LoginFault></detail></soapenv:Fault>"
    )
    return Response(_ENVELOPE.format(body=body, namespace=_KINDS["u"]), 500, media_type="text/xml;charset=UTF-8")


def _logged_in(org: "Org", call: "Call", user: User, kind: str, version: str) -> Response:
    idle_ms = int(org.settings.session_minutes * 60_000)
    session = org.tokens.add_session(org.organization_id, None, user.id, "SOAP", "full", idle_ms)
    base = grants.instance_url(org, call.host_url)
    seconds = int(org.settings.session_minutes * 60)
    info = {
        "organizationId": org.organization_id,
        "organizationName": "Local Org",
        "sessionSecondsValid": str(seconds),
        "userEmail": user.email or "",
        "userFullName": user.name or "",
        "userId": user.id,
        "userLanguage": user.language or "en_US",
        "userLocale": user.locale or "en_US",
        "userName": user.username,
        "userTimeZone": user.zone or "GMT",
        "userType": user.type or "Standard",
    }
    server = f"{base}/services/Soap/{kind}/{version}/{org.organization_id[:15]}"
    result = (
        f"<metadataServerUrl>{escape(server.replace(f'/{kind}/', '/m/'))}</metadataServerUrl>"
        "<passwordExpired>false</passwordExpired><sandbox>false</sandbox>"
        f"<serverUrl>{escape(server)}</serverUrl><sessionId>{escape(session.token)}</sessionId>"
        f"<userId>{user.id}</userId><userInfo>{''.join(_tag(*pair) for pair in info.items())}</userInfo>"
    )
    body = f"<loginResponse><result>{result}</result></loginResponse>"
    return Response(_ENVELOPE.format(body=body, namespace=_KINDS[kind]), 200, media_type="text/xml;charset=UTF-8")


def _tag(name: str, value: str) -> str:
    return f"<{name}>{escape(value)}</{name}>"
