"""REST: a route for every operation that names one. Same table, same dispatcher, same faults."""

import hashlib
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from time import monotonic
from typing import Any, Final

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from hub.faults import Fault
from hub.operations.call import ANONYMOUS, Call, Services
from hub.operations.dispatcher import (
    Dispatcher,
    admit,
    authenticate,
    authorise,
    note_refusal,
    validate,
)
from hub.operations.operation import PUBLIC, AnyOperation, Streamed
from hub.protocol.codec import decode_json
from hub.protocol.limits import MAX_FRAME_BYTES
from hub.settings import LOOPBACK
from hub.telemetry.logs import log, log_failure
from hub.telemetry.traces import trace_id_of, traced
from hub.transports.request_ids import REQUEST
from hub.transports.websocket import bearer

IDEMPOTENT_S: Final = 86_400.0
"""How long the answer to an ``Idempotency-Key`` is kept."""

COOKIE: Final = "hub_refresh"
COOKIE_PATH: Final = "/v1/auth"
"""The refresh token of a browser goes nowhere else."""
RECHECK_S: Final = 1.0
"""A body that is sent while it is made is authorised again at least this often."""

UNDER_WAY_S: Final = 90.0
_UNDER_WAY: Final = b"under way"
_SHOWN: Final = b"shown"
_KEY: Final = re.compile(r"[!-~]{1,255}")


def json_response(body: bytes, status: int, headers: Mapping[str, str] | None = None) -> Response:
    return Response(body, status, headers, "application/json")


def fault_response(fault: Fault, trace_id: str) -> Response:
    """The fault as HTTP answers it: ``{"error": …}`` with the status of the fault table."""
    headers = {"x-trace-id": trace_id, "cache-control": "no-store"}
    if fault.kind.http == 401:
        headers["www-authenticate"] = 'Bearer realm="hub"'
    retry_after_ms = fault.details.get("retry_after_ms")
    if retry_after_ms is not None:
        headers["retry-after"] = str(-(-int(retry_after_ms) // 1000))
    return json_response(orjson.dumps({"error": fault.body(trace_id)}), fault.kind.http, headers)


async def http_exception(request: Request, error: Exception) -> Response:
    """What Starlette itself refuses (no such path, a method not allowed), in our form."""
    assert isinstance(error, HTTPException)
    trace_id = trace_id_of(request.headers.get("traceparent"))
    if error.status_code == 405:
        fault = Fault("method_not_found", "This path does not take this HTTP method; see Allow.")
    elif error.status_code == 404:
        fault = Fault("method_not_found", "There is nothing at this path; see /docs.")
    else:
        fault = Fault("invalid_request", error.detail)
    response = fault_response(fault, trace_id)
    response.status_code = error.status_code
    response.headers.update(error.headers or {})
    return response


async def unexpected(request: Request, error: Exception) -> Response:
    """Nothing of the failure but its trace id reaches the caller."""
    trace_id = trace_id_of(request.headers.get("traceparent"))
    named = {"request": request.scope.get(REQUEST, "")}
    log.error("a request failed", trace_id=trace_id, path=request.url.path, exc_info=error, **named)
    response = fault_response(Fault("internal_error"), trace_id)
    response.headers["x-request-id"] = named["request"]
    return response


class Rest:
    """Answers HTTP requests by operations."""

    def __init__(self, services: Services, dispatcher: Dispatcher) -> None:
        self._services = services
        self._dispatcher = dispatcher

    def routes(self) -> list[Route]:
        """One route for each path; it knows all the methods that the path takes."""
        paths: dict[str, dict[str, AnyOperation]] = defaultdict(dict)
        for operation in self._dispatcher.operations.values():
            if operation.http is not None:
                paths[operation.http.path][operation.http.method] = operation
        return [
            Route(path, self._endpoint(methods), methods=list(methods))
            for path, methods in paths.items()
        ]

    def _endpoint(self, methods: Mapping[str, AnyOperation]) -> Any:
        async def endpoint(request: Request) -> Response:
            method = "GET" if request.method == "HEAD" else request.method
            return await self._answer(request, methods[method])

        return endpoint

    async def call(self, request: Request, trace_id: str, *, public: bool = False) -> Call:
        """The call that a request makes. Raises Fault unauthenticated, token_expired, rate_limited.

        ``public``: credentials do not matter and are not looked at, since a client that signs in
        again may still send its old token.
        """
        token = None if public else bearer(request.headers)
        address = request.client.host if request.client else None
        claims = None
        if token is not None:
            claims = await self._services.credentials.read(token, address)
        return Call(
            services=self._services,
            actor=ANONYMOUS,
            claims=claims,
            connection=None,
            transport="rest",
            trace_id=trace_id,
            address=address,
            device=request.headers.get("user-agent", "")[:400] or None,
            idempotency_key=request.headers.get("idempotency-key"),
            refresh_cookie=request.cookies.get(COOKIE),
        )

    async def _answer(self, request: Request, operation: AnyOperation) -> Response:
        assert operation.http is not None
        trace_id = trace_id_of(request.headers.get("traceparent"))
        with traced(trace_id, method=operation.name):
            try:
                call = await self.call(request, trace_id, public=operation.permission == PUBLIC)
                params = await _params(request, operation)
                if issubclass(operation.result, Streamed):
                    return await self._stream(request, operation, params, call)
                body = await self._once(operation, params, call)
            except Fault as fault:
                log_failure(fault)
                return fault_response(fault, trace_id)
        headers = {"x-trace-id": trace_id, "cache-control": "no-store"}
        response = json_response(body, operation.http.status, headers)
        if call.set_refresh_cookie is not None:
            self._set_cookie(request, response, call.set_refresh_cookie)
        return response

    def _set_cookie(self, request: Request, response: Response, token: str) -> None:
        settings = self._services.settings
        by_tls = request.headers.get("origin", "").startswith("https:")
        response.set_cookie(
            COOKIE,
            token,
            max_age=settings.refresh_token_days * 86_400 if token else 0,
            path=COOKIE_PATH,
            # Without TLS a hub is reached on its own machine alone.
            secure=by_tls or settings.host not in LOOPBACK,
            httponly=True,
            samesite="strict",
        )

    async def _stream(
        self, request: Request, operation: AnyOperation, params: dict[str, Any], call: Call
    ) -> Response:
        """A body that is sent while it is made; one that cannot be finished is cut off."""
        result = await self._dispatcher.dispatch(operation, params, call)
        assert isinstance(result, Streamed)
        abort = request.scope.get("extensions", {}).get("hub.abort")

        async def body() -> AsyncIterator[bytes]:
            checked = monotonic()
            try:
                async for chunk in result.chunks:
                    if monotonic() - checked >= RECHECK_S:
                        await authenticate(operation, call)
                        await authorise(operation, validate(operation, params), call)
                        checked = monotonic()
                    yield chunk
            except Fault as fault:
                # The status has been sent: that the body does not end is all that can be said.
                log_failure(fault, method=operation.name)
                if abort is None:
                    raise
                abort()

        headers = {
            "x-trace-id": call.trace_id,
            "cache-control": "no-store",
            "content-disposition": f'attachment; filename="{result.name}"',
        }
        if request.method == "HEAD":
            return Response(headers=headers, media_type=result.media_type)
        return StreamingResponse(body(), headers=headers, media_type=result.media_type)

    async def _once(self, operation: AnyOperation, params: dict[str, Any], call: Call) -> bytes:
        """The encoded result; the first one again for an ``Idempotency-Key`` that is known."""
        key, http = call.idempotency_key, operation.http
        if key is None or call.claims is None or http is None or http.method != "POST":
            return (await self._dispatcher.dispatch(operation, params, call)).encode()
        if not _KEY.fullmatch(key):
            raise Fault("invalid_request", "Idempotency-Key: 1 to 255 visible ASCII characters.")
        if "client_message_id" in operation.params.model_fields:
            named = key if len(key) <= 128 else hashlib.sha256(key.encode()).hexdigest()
            params.setdefault("client_message_id", named)
        cache = self._services.backplane
        asked = hashlib.sha256(orjson.dumps(params, option=orjson.OPT_SORT_KEYS)).digest()
        owner = f"{call.claims.tenant_id}:{call.claims.user_id}:{operation.name}:{key}"
        name = "idempotent:" + hashlib.sha256(owner.encode()).hexdigest()
        replies = self._services.metrics.caches["replies"]
        if not await cache.cache_set(name, asked + _UNDER_WAY, UNDER_WAY_S, only_new=True):
            await admit(operation, call)  # who may not come in learns nothing of the key
            known = await cache.cache_get(name)
            if known is None or known[32:] == _UNDER_WAY:
                raise Fault("conflict", "The first request of this Idempotency-Key is under way.")
            if known[:32] != asked:
                raise Fault("conflict", "This Idempotency-Key was used for another request.")
            if known[32:] == _SHOWN:
                raise Fault("conflict", "It was done, and its answer holds what is shown once.")
            # Answered again only to who may still do it.
            replies.hits += 1
            try:
                await authorise(operation, validate(operation, params), call)
            except Fault as fault:
                note_refusal(operation, params, call, fault)
                raise
            return known[32:]
        replies.misses += 1
        try:
            body = (await self._dispatcher.dispatch(operation, params, call)).encode()
        except BaseException:
            await cache.cache_delete(name)
            raise
        try:
            kept = _SHOWN if operation.shown_once else body
            await cache.cache_set(name, asked + kept, IDEMPOTENT_S)
        except Fault as fault:
            # It is done, and that is the answer; the same key will be told that it is under way.
            log.warning("could not keep the answer to an Idempotency-Key", why=fault.reason)
        return body


async def _params(request: Request, operation: AnyOperation) -> dict[str, Any]:
    """The parameters of path, query (reads) or JSON body (writes), together.

    Raises Fault parse_error, invalid_request, invalid_params.
    """
    given: dict[str, Any] = {}
    if request.method in ("POST", "PATCH"):
        given = await _body(request)
        if request.url.query:
            raise Fault("invalid_params", "Send parameters in the JSON body, not in the query.")
    else:
        for name, value in request.query_params.multi_items():
            if name in given:
                raise Fault("invalid_params", f"{name}: given twice")
            given[name] = value
    for name, value in request.path_params.items():
        if name in given:
            raise Fault("invalid_params", f"{name}: it is in the path already")
        given[name] = value
    return given


async def _body(request: Request) -> dict[str, Any]:
    chunks, size = [], 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > MAX_FRAME_BYTES:
                raise Fault("invalid_request", f"The body is longer than {MAX_FRAME_BYTES} bytes.")
            chunks.append(chunk)
    except ClientDisconnect:  # nobody is there to be told; the log is
        raise Fault("invalid_request", "The body did not come whole.") from None
    data = b"".join(chunks)
    if not data:
        return {}
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Fault("invalid_request", "Send the body as `Content-Type: application/json`.")
    value = decode_json(data)
    if not isinstance(value, dict):
        raise Fault("invalid_params", "The body is a JSON object.")
    return value
