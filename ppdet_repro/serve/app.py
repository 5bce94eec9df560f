"""The web application: routes, the schema of their answers, and the limits of uploads."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Dict, List, Optional, Sequence

from fastapi import FastAPI, Query, Request
from fastapi.middleware.trustedhost import TrustedHostMiddleware
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel, Field

from ppdet_repro.serve.detector import Answer, QueuedDetector, Refusal

PAGE = Path(__file__).with_name("page.html")
HEADERS = {  # the page is a single file, which loads nothing from elsewhere
    "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src blob: data:; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
}
IMAGE_BODY = {
    "requestBody": {
        "description": "the bytes of an image: JPEG, PNG, BMP, WebP or TIFF",
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


class Box(BaseModel):
    """A detected object."""

    class_id: int = Field(description="number of the class, counted from 0")
    name: str = Field(description="name of the class")
    score: float = Field(description="from 0 to 1")
    box: List[float] = Field(description="x1, y1, x2, y2 in pixels of the image", min_length=4, max_length=4)


class Detections(BaseModel):
    """The detections on an image."""

    width: int = Field(description="width of the image in pixels, after applying its EXIF orientation")
    height: int = Field(description="height of the image in pixels")
    boxes: List[Box] = Field(description="in order of descending score")
    milliseconds: Dict[str, float] = Field(description="time per stage: preprocess, inference, postprocess")


class Error(BaseModel):
    """A refusal."""

    detail: str  # the reason


class ModelInfo(BaseModel):
    """The model of the server, and its limits."""

    architecture: str
    classes: List[str]
    max_bytes: int
    max_pixels: int
    timeout_seconds: float
    queue: int
    draw_threshold: float


REFUSALS = {
    400: "the request has no body",
    408: "the upload took too long",
    413: "too many bytes, or too many pixels when decoded",
    415: "not an image, or a damaged one",
    422: "threshold is not a number from 0 to 1",
    429: "too many requests are waiting",
    504: "the model took too long",
}


def create_app(
    detector: QueuedDetector, architecture: str, draw_threshold: float, hosts: Sequence[str] = ("*",)
) -> FastAPI:
    """Create the application. `draw_threshold` is the lowest score of returned boxes, if a request has none. `hosts`
    are the names that a request may have for the server: a page of another site cannot use it under its own name."""
    app = FastAPI(title="ppdet_repro detector", version="1", docs_url=None, redoc_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))
    limits = detector.limits

    @app.exception_handler(Refusal)
    async def refuse(_: Request, refusal: Refusal) -> JSONResponse:
        headers = {"Retry-After": "1"} if refusal.status == 429 else None
        return JSONResponse({"detail": str(refusal)}, refusal.status, headers)

    @app.get("/", include_in_schema=False)
    async def page() -> HTMLResponse:
        return HTMLResponse(PAGE.read_text(encoding="utf-8"), headers=HEADERS)

    @app.get("/api/model")
    async def model() -> ModelInfo:
        """The model's classes and the server's limits."""
        return ModelInfo(
            architecture=architecture,
            classes=detector.labels,
            max_bytes=limits.max_bytes,
            max_pixels=limits.max_pixels,
            timeout_seconds=limits.timeout,
            queue=limits.queue,
            draw_threshold=draw_threshold,
        )

    @app.post(
        "/api/detect",
        openapi_extra=IMAGE_BODY,
        responses={status: {"model": Error, "description": reason} for status, reason in REFUSALS.items()},
    )
    async def detect(
        request: Request,
        threshold: Optional[float] = Query(None, ge=0, le=1, description="lowest score of returned boxes"),
    ) -> Detections:
        """Detect objects on the image in the request's body."""
        data = await read_body(request, limits.max_bytes, limits.timeout)
        answer = await detector.detect(data)
        return as_json(answer, detector.labels, draw_threshold if threshold is None else threshold)

    return app


async def read_body(request: Request, max_bytes: int, timeout: float) -> bytes:
    """Read the request's body. Refusal if it is larger than `max_bytes` or takes longer than `timeout` seconds."""
    too_large = Refusal(413, f"the upload is larger than {max_bytes} bytes")
    length = request.headers.get("content-length", "0")
    if length.isdigit() and int(length) > max_bytes:
        raise too_large

    async def read() -> bytes:
        data = bytearray()
        async for chunk in request.stream():
            data += chunk
            if len(data) > max_bytes:
                raise too_large
        return bytes(data)

    try:
        return await asyncio.wait_for(read(), timeout)
    except asyncio.TimeoutError as error:
        raise Refusal(408, f"the upload took more than {timeout:g} seconds") from error


def as_json(answer: Answer, labels: List[str], threshold: float) -> Detections:
    """The detections with a score of at least `threshold`."""
    boxes = [
        Box(class_id=int(label), name=labels[int(label)], score=score, box=corners)
        for label, score, *corners in answer.rows.tolist()
        if score >= threshold
    ]
    return Detections(width=answer.width, height=answer.height, boxes=boxes, milliseconds=answer.milliseconds)
