"""The web application: routes, and the schema of their answers."""

from __future__ import annotations

from pathlib import Path
from typing import Dict, List, Optional, Sequence

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field
from starlette.types import ASGIApp

from ppdet_repro.serve.browsers import BrowserRules
from ppdet_repro.serve.detector import Answer, QueuedDetector
from ppdet_repro.serve.limits import Refusal
from ppdet_repro.serve.uploads import Uploads

FOLDER = Path(__file__).parent
PAGE = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    **{f"/{name}": (name, "text/javascript") for name in ("page.js", "view.js", "formats.js")},
}
IMAGE_BODY = {
    "requestBody": {
        "description": "the bytes of an image: JPEG, PNG, BMP, WebP, TIFF or PNM",
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


class Health(BaseModel):
    """The server runs."""

    status: str = "ok"


REFUSALS = {
    400: "the request has no body, or only a part of it, or another host name",
    403: "a page of another site sent the request",
    408: "the upload took too long",
    413: "too many bytes, or too many pixels when decoded",
    415: "not an image, or a damaged one",
    422: "threshold is not a number from 0 to 1",
    429: "too many requests are waiting",
    503: "the process that decodes images cannot be started",
    504: "the model took too long",
}


def create_app(
    detector: QueuedDetector,
    architecture: str,
    draw_threshold: float,
    hosts: Sequence[str] = (),
    origins: Sequence[str] = (),
) -> ASGIApp:
    """Create the application. `draw_threshold` is the lowest score of returned boxes, if a request has none. `hosts`
    are the names that a request may have for the server, if it is not any name. Pages of `origins` may use it, too."""
    app = FastAPI(title="ppdet_repro detector", version="1", docs_url=None, redoc_url=None, redirect_slashes=False)
    limits = detector.limits
    uploads = Uploads(limits)
    add_errors(app)
    add_page(app)

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
        answer = await detector.detect(await uploads.read(request))
        return as_json(answer, detector.labels, draw_threshold if threshold is None else threshold)

    if origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=list(origins), allow_methods=["GET", "POST"], allow_headers=["content-type"]
        )
    return BrowserRules(app, hosts, origins)


def add_page(app: FastAPI) -> None:
    """Add the page with its files, and `/health`, which answers as long as the server runs."""

    def add(path: str, content: bytes, media_type: str) -> None:
        @app.get(path, include_in_schema=False)
        async def file() -> Response:
            return Response(content, media_type=media_type)

    for path, (name, media_type) in PAGE.items():
        add(path, (FOLDER / name).read_bytes(), media_type)

    @app.get("/health")
    @app.head("/health", include_in_schema=False)
    async def health() -> Health:
        """The server runs."""
        return Health()


def add_errors(app: FastAPI) -> None:
    """Make every error a JSON object with the reason as `detail`."""

    @app.exception_handler(Refusal)
    async def refuse(_: Request, refusal: Refusal) -> JSONResponse:
        headers = {"Retry-After": "1"} if refusal.status == 429 else {}
        if refusal.status == 408:
            headers["Connection"] = "close"  # the rest of the upload is not awaited
        return JSONResponse({"detail": str(refusal)}, refusal.status, headers)

    @app.exception_handler(RequestValidationError)
    async def wrong_parameter(_: Request, __: RequestValidationError) -> JSONResponse:
        return JSONResponse({"detail": REFUSALS[422]}, 422)

    @app.exception_handler(Exception)
    async def failure(_: Request, __: Exception) -> JSONResponse:
        return JSONResponse({"detail": "the server failed; its log says why"}, 500)


def as_json(answer: Answer, labels: List[str], threshold: float) -> Detections:
    """The detections with a score of at least `threshold`."""
    boxes = [
        Box(class_id=int(label), name=labels[int(label)], score=score, box=corners)
        for label, score, *corners in answer.rows.tolist()
        if score >= threshold
    ]
    return Detections(width=answer.width, height=answer.height, boxes=boxes, milliseconds=answer.milliseconds)
