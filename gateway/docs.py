"""The API's documentation: the OpenAPI document and its UI, all from this machine and safe under a strict CSP."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import orjson
import swagger_ui_bundle  # type: ignore[import-untyped]  # the package has no annotations
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway import door, openapi
from gateway.door import Answer
from gateway.endpoint import Route

DOCUMENT_PATH = "/api/openapi.json"
PAGE_PATH = "/api/docs"

_OURS = Path(__file__).parent / "static"
_BUNDLE = Path(str(swagger_ui_bundle.swagger_ui_path))
_FILES: Final[Mapping[str, tuple[Path, str]]] = {
    "swagger-ui.css": (_BUNDLE, "text/css"),
    "swagger-ui-bundle.js": (_BUNDLE, "text/javascript"),
    "favicon-32x32.png": (_BUNDLE, "image/png"),
    "start.js": (_OURS, "text/javascript"),
}
# The UI writes style attributes and shows images it carries itself; scripts and connections are this origin's alone.
_POLICY = (
    b"content-security-policy",
    b"default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
)


def pages(base: str, routes: Sequence[Route]) -> dict[str, ASGIApp]:
    """The documentation's pages by path."""
    document = orjson.dumps(openapi.document(base, routes))
    shown = {DOCUMENT_PATH: _page(document, "application/json"), PAGE_PATH: _file(_OURS / "index.html", "text/html")}
    shown |= {f"{PAGE_PATH}/{name}": _file(folder / name, kind) for name, (folder, kind) in _FILES.items()}
    return shown


def _file(path: Path, content_type: str) -> ASGIApp:
    kind = content_type if content_type.startswith("image/") else f"{content_type}; charset=utf-8"
    return _page(path.read_bytes(), kind)


def _page(body: bytes, content_type: str) -> ASGIApp:
    return functools.partial(_send, Answer(body, [(b"content-type", content_type.encode()), _POLICY]))


async def _send(answer: Answer, scope: Scope, receive: Receive, send: Send) -> None:
    await door.send_answer(send, answer, 200)
