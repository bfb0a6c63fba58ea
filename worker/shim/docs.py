"""/docs: the OpenAPI document as a page where it can be tried. Nothing is loaded from elsewhere, so it works without internet."""

from pathlib import Path

import fastapi_offline
from fastapi import APIRouter, FastAPI, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles

router = APIRouter(include_in_schema=False)

STATIC = "/docs/static"
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:;"
    " frame-ancestors 'none'; base-uri 'none'"
)


def mount(app: FastAPI) -> None:
    """The page's script and style, as the package fastapi-offline brings them."""
    folder = Path(fastapi_offline.__file__).parent / "static"
    app.mount(STATIC, StaticFiles(directory=folder), name="docs-static")


@router.get("/docs")
async def docs(request: Request) -> HTMLResponse:
    """The page. It needs no key, as it shows nothing but the document; trying a route needs one."""
    page = get_swagger_ui_html(
        openapi_url=request.app.openapi_url,
        title="sfsync",
        swagger_js_url=f"{STATIC}/swagger-ui-bundle.js",
        swagger_css_url=f"{STATIC}/swagger-ui.css",
        swagger_favicon_url=f"{STATIC}/favicon.png",
        swagger_ui_parameters={"validatorUrl": None, "docExpansion": "list"},
    )
    page.headers["Content-Security-Policy"] = POLICY
    return page
