"""The REST API and the live page, of one application whatever is measured: a part for each vantage that there
is.

Every response is `{"success": …, "message": …, "data": …}`. With a token, every call but /health needs it
(`Authorization: Bearer …`). OpenAPI's description is at /openapi.json. Who is let in at all:
`replaykit.web.admission`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles

from replaykit import __version__
from replaykit.errors import UsageError
from replaykit.ledger.store import Ledger
from replaykit.rules.limits import Rule
from replaykit.vantages.forwarder.server import Forwarder
from replaykit.web.admission import Admission, Timing
from replaykit.web.answers import ERRORS, DataAnswer, Problem
from replaykit.web.delivery import Delivery
from replaykit.web.exchanges import add_exchanges
from replaykit.web.forwarding import add_mappings, add_traffic
from replaykit.web.machines import Machines, add_machines, silence
from replaykit.web.usage import add_history, add_limits, add_overview

STATIC = Path(__file__).parent / "static"
_PAGE = {
    # Nothing is loaded from elsewhere, and nobody may frame it. Vue makes functions of its templates.
    "Content-Security-Policy": "default-src 'self'; script-src 'self' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self' ws: wss:; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-cache",
}  # fmt: skip


def create_app(
    ledger: Ledger,
    forwarder: Forwarder | None = None,
    token: str | None = None,
    *,
    exchanges: str | None = None,
    machines: Machines | None = None,
    rules: Callable[[], Sequence[Rule]] | None = None,
    origins: Sequence[str] = (),
) -> FastAPI:
    """The application. token: what every call but /health must bring; None: nothing. exchanges: an archive of
    Parquet.

    machines: what is polled here; without it the ledger's machines are shown as they were seen last. rules:
    as they are now. origins: of other front ends that may ask.
    """

    app = FastAPI(title="replaykit", version=__version__, docs_url=None, redoc_url=None)
    api = APIRouter(responses=ERRORS)
    if forwarder is not None:
        add_traffic(api, app, forwarder)
        add_mappings(api, forwarder, open_to_others=token is not None)
    add_history(api, ledger, None if machines is None else lambda: machines.now)
    trouble = None if machines is None else lambda: silence(machines)
    add_overview(
        api, ledger, {"forwarder": forwarder is not None, "exchanges": exchanges is not None}, trouble
    )
    add_limits(api, ledger, rules)
    add_exchanges(api, ledger, exchanges)
    add_machines(api, ledger, machines)
    app.include_router(api)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")

    @app.get("/", include_in_schema=False)
    @app.get("/api/stats/monitor", response_class=FileResponse)
    async def monitor() -> FileResponse:
        """The live page. It asks for the token itself, where one is needed."""
        return FileResponse(STATIC / "index.html", media_type="text/html", headers=_PAGE)

    @app.get("/health")
    async def health() -> DataAnswer:
        if forwarder is None:
            trouble = "" if machines is None else silence(machines)
            return DataAnswer(data={"status": "ok", **({"hypervisor": trouble} if trouble else {})})
        return DataAnswer(
            data={"status": "ok", "mappings": len(forwarder.mappings), "ledger": forwarder.trouble or "ok"}
        )

    app.state.timing = Timing()
    app.add_middleware(Delivery)
    app.add_middleware(Admission, token=token, origins=origins, timing=app.state.timing)
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(UsageError, _usage)
    return app


async def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return _error(error.status, error.message)


async def _usage(request: Request, error: Exception) -> Response:
    return _error(400, str(error))


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    response = _error(error.status_code, str(error.detail))
    response.headers.update(error.headers or {})
    return response


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(p) for p in first["loc"][1:])
    return _error(400, f"{where}: {first['msg']}" if where else str(first["msg"]))


def _error(status: int, message: str) -> Response:
    return JSONResponse({"success": False, "message": message}, status)
