"""The SOAP API: login() up to API version 64, then calls on records. Source: SOAP API Developer Guide."""

import re
from html import escape
from typing import TYPE_CHECKING

from starlette.responses import Response

from local_org import data_api, grants, soap_calls, users
from local_org.errors import ApiError, OAuthError
from local_org.metadata import check_version
from local_org.soap_calls import Call as SoapCall
from local_org.soap_calls import Element, local, tag, user_info
from local_org.users import User

if TYPE_CHECKING:
    from local_org.data_api import Call
    from local_org.org import Org

PREFIX = "/services/Soap/"
LAST_LOGIN_VERSION = 64
_KINDS = {"u": "urn:partner.soap.sforce.com", "c": "urn:enterprise.soap.sforce.com"}
_ENVELOPE = (
    '<?xml version="1.0" encoding="UTF-8"?><soapenv:Envelope '
    'xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/" xmlns="{namespace}" xmlns:sf="{objects}" '
    'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><soapenv:Body>{body}</soapenv:Body></soapenv:Envelope>'
)


def answer(org: "Org", call: "Call") -> tuple[Response, str | None]:
    """The answer of a call, or the fault that refuses it; and the user where there is one."""
    kind, _, rest = call.path[len(PREFIX) :].partition("/")
    version = rest.split("/")[0]
    element, headers = soap_calls.parse(call.body)
    if kind not in _KINDS or not re.fullmatch(r"\d+\.0", version) or not _served(version):
        return _fault("UNSUPPORTED_API_VERSION", "Invalid Api version specified on URL"), None
    if element is None:
        return _fault("INVALID_OPERATION", "There is no SOAP call in the body"), None
    if local(element) == "login":
        return _login(org, call, element, kind, version)
    return _carry_out(org, call, element, headers, kind, version)


def _served(version: str) -> bool:
    try:
        check_version(version)
    except ApiError:
        return False
    return True


def _login(org: "Org", call: "Call", element: Element, kind: str, version: str) -> tuple[Response, str | None]:
    if float(version) > LAST_LOGIN_VERSION:
        return _fault("UNSUPPORTED_API_VERSION", "login() is not available in this version of the API"), None
    given = {local(child): (child.text or "").strip() for child in element}
    try:
        user = users.log_in(org, given.get("username", ""), given.get("password", ""))
    except OAuthError:
        message = "Invalid username, password, security token; or user locked out."
        return _fault("INVALID_LOGIN", message), None
    return _logged_in(org, call, user, kind, version), user.id


def _carry_out(
    org: "Org", call: "Call", element: Element, headers: dict[str, Element], kind: str, version: str
) -> tuple[Response, str | None]:
    """A call in a session."""
    given = headers.get("SessionHeader")
    token = "" if given is None else "".join(given.itertext()).strip()
    session = org.tokens.session(token)
    if session is None:
        text = "Invalid Session ID found in SessionHeader: Illegal Session. Session not found"
        return _fault("INVALID_SESSION_ID", text), None
    work = soap_calls.CALLS.get(local(element))
    if work is None:
        text = f"No operation available for request {{{_KINDS[kind]}}}{local(element)}"
        return _fault("INVALID_OPERATION", text), session.user_id
    try:
        data_api.count(org, local(element))
        ctx = data_api.context_of(org, call, version, session)
        result = data_api.patiently(ctx, lambda patient: work(SoapCall(patient, element, headers)))
    except ApiError as error:
        return _fault(error.code, error.message), session.user_id
    except Exception as error:  # what nobody expected is logged, and gets an error id
        return _fault("UNKNOWN_EXCEPTION", data_api.error_answer(org, error).body[0]["message"]), session.user_id
    name = f"{local(element)}Response"
    return _enveloped(f"<{name}>{result}</{name}>", kind), session.user_id


def _enveloped(body: str, kind: str, status: int = 200) -> Response:
    objects = f"urn:sobject.{_KINDS[kind].split(':')[1]}"
    text = _ENVELOPE.format(body=body, namespace=_KINDS[kind], objects=objects)
    return Response(text, status, media_type="text/xml;charset=UTF-8")


def _fault(code: str, message: str) -> Response:
    fault = "urn:fault.partner.soap.sforce.com"
    detail = f"<sf:exceptionCode>{code}</sf:exceptionCode><sf:exceptionMessage>{escape(message)}</sf:exceptionMessage>"
    body = (
        f'<soapenv:Fault xmlns:sf="{fault}"><faultcode>sf:{code}</faultcode>'
        f"<faultstring>{code}: {escape(message)}</faultstring>"
        f'<detail><sf:fault xsi:type="sf:{_fault_type(code)}">{detail}</sf:fault></detail></soapenv:Fault>'
    )
    return _enveloped(body, "u", 500)


def _fault_type(code: str) -> str:
    return "LoginFault" if code == "INVALID_LOGIN" else "UnexpectedErrorFault"


def _logged_in(org: "Org", call: "Call", user: User, kind: str, version: str) -> Response:
    idle_ms = int(org.settings.session_minutes * 60_000)
    session = org.tokens.add_session(org.organization_id, None, user.id, "SOAP", "full", idle_ms)
    base = grants.instance_url(org, call.host_url)
    server = f"{base}/services/Soap/{kind}/{version}/{org.organization_id[:15]}"
    result = {
        "metadataServerUrl": server.replace(f"/{kind}/", "/m/"),
        "passwordExpired": False,
        "sandbox": False,
        "serverUrl": server,
        "sessionId": session.token,
        "userId": user.id,
        "userInfo": user_info(org, user),
    }
    return _enveloped(f"<loginResponse>{tag('result', result)}</loginResponse>", kind)
