"""The explorer's web application: fixed files, pictures by id, and questions to the workbench."""

import logging
import secrets
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from fastapi import FastAPI
from fastapi import Request as HttpRequest
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from lens_multimodal.arguments.boundary import public
from lens_multimodal.atlas import Atlas
from lens_multimodal.data import Scene, read_coco
from lens_multimodal.explorer import answers, requests
from lens_multimodal.explorer.atlas_pages import ADDRESS, AtlasPages
from lens_multimodal.explorer.between import patch_between, sweep_layer
from lens_multimodal.explorer.guard import Guard
from lens_multimodal.explorer.limits import Limits
from lens_multimodal.explorer.uploads import Sample, UnknownPicture
from lens_multimodal.explorer.workbench import Busy, Workbench
from lens_multimodal.image.pictures import NotAPicture, PictureTooLarge
from lens_multimodal.lens import VisionLens
from lens_multimodal.tiny import scenes_folder

STATIC = {
    "explorer.css": "text/css",
    "icon.svg": "image/svg+xml",
    "api.js": "text/javascript",
    "between.js": "text/javascript",
    "board.js": "text/javascript",
    "dom.js": "text/javascript",
    "look.js": "text/javascript",
    "main.js": "text/javascript",
    "neurons.js": "text/javascript",
    "pictures.js": "text/javascript",
    "positions.js": "text/javascript",
}
"""The only files that are served, each read once."""

STATUS: dict[type[Exception], int] = {
    UnknownPicture: 404,
    NotAPicture: 415,
    PictureTooLarge: 413,
    Busy: 503,
    ValueError: 400,
    TypeError: 400,
    FloatingPointError: 400,
}


@public
def create_app(
    lens: VisionLens,
    *,
    scenes: Sequence[Scene] | None = None,
    limits: Limits | None = None,
    atlas: Atlas | str | Path | None = None,
) -> FastAPI:
    """The explorer of one lens as an ASGI application; `serve` runs it.

    Args:
        lens: answers one question at a time, and is left unchanged.
        scenes: the pictures of the gallery; None for the sample scenes of the tiny trio.
        limits: None for the defaults.
        atlas: an atlas of this lens, or its folder: neurons come with what it says of them, and its site is served.

    Raises: as `Atlas.of`.
    """
    pages = None if atlas is None else AtlasPages(Atlas.of(lens, atlas))
    offered = read_coco(scenes_folder()) if scenes is None else scenes
    limits = limits or Limits()
    app = FastAPI(
        title="lens_multimodal explorer", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False
    )
    token = secrets.token_urlsafe(32)
    app.add_middleware(Guard, token=token, limits=limits)
    _add_page(app, token)
    if pages is not None:
        _add_atlas(app, pages)
    app.state.bench = Workbench(lens, scenes=offered, limits=limits, atlas=pages)
    _add_questions(app, app.state.bench)
    _add_errors(app)
    return app


def _add_page(app: FastAPI, token: str) -> None:
    folder = files("lens_multimodal").joinpath("explorer", "static")
    page = folder.joinpath("index.html").read_text(encoding="utf-8").replace("{{token}}", token)
    contents = {name: folder.joinpath(name).read_bytes() for name in STATIC}

    @app.get("/")
    def index() -> Response:
        return Response(page, media_type="text/html")

    @app.get("/static/{name}")
    def static(name: str) -> Response:
        if name not in contents:
            raise HTTPException(404)
        return Response(contents[name], media_type=STATIC[name])


def _add_atlas(app: FastAPI, pages: AtlasPages) -> None:
    @app.get(ADDRESS + "{name:path}")
    def page(name: str) -> Response:
        found = pages.file(name)
        if found is None:
            raise HTTPException(404)
        content, kind = found
        return Response(content, media_type=kind)


def _add_questions(app: FastAPI, bench: Workbench) -> None:
    @app.get("/api/about")
    def about() -> dict[str, object]:
        return bench.about()

    @app.get("/api/samples")
    def samples() -> list[Sample]:
        return bench.samples

    @app.post("/api/pictures")
    async def add(request: HttpRequest) -> dict[str, str]:
        data = await request.body()
        return {"id": await run_in_threadpool(bench.add, data)}

    @app.get("/api/pictures/{name}")
    def picture(name: str) -> Response:
        return Response(bench.pictures.png(name), media_type="image/png")

    @app.post("/api/look")
    def look(ask: requests.Look) -> answers.Seen:
        return bench.look(ask.picture, ask.text)

    @app.post("/api/why")
    def why(ask: requests.Why) -> answers.Why:
        return bench.why(ask.picture, ask.text, ask.before, ask.target, positions=ask.positions, top_k=ask.top_k)

    @app.post("/api/change")
    def change(ask: requests.Change) -> answers.Changed:
        factors = {(one.layer, one.neuron): one.factor for one in ask.neurons}
        if len(factors) < len(ask.neurons):
            raise ValueError("the same neuron is given more than once")
        return bench.change(ask.picture, ask.text, ask.before, ask.target, positions=ask.positions, factors=factors)

    @app.post("/api/patch")
    def patch(ask: requests.Patch) -> answers.Patched:
        return patch_between(
            bench,
            ask.clean,
            ask.corrupted,
            ask.text,
            ask.before,
            ask.target,
            layers=ask.layers,
            patches=ask.patches,
        )

    @app.post("/api/sweep")
    def sweep(ask: requests.Sweep) -> answers.SweptLayer:
        return sweep_layer(bench, ask.clean, ask.corrupted, ask.text, ask.before, ask.target, layer=ask.layer)


def _add_errors(app: FastAPI) -> None:
    """Every failure as one line, `{"error": ...}`."""

    def as_line(_request: HttpRequest, error: Exception) -> JSONResponse:
        status = next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)
        return JSONResponse({"error": _first_line(error)}, status_code=status)

    for kind in STATUS:
        app.add_exception_handler(kind, as_line)

    @app.exception_handler(RequestValidationError)
    def not_understood(_request: HttpRequest, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:]) or "the request"
        return JSONResponse({"error": f"{where}: {first['msg']}"}, status_code=422)

    @app.exception_handler(HTTPException)
    def refused(_request: HttpRequest, error: HTTPException) -> JSONResponse:
        reason = "not found" if error.status_code == 404 else str(error.detail)
        return JSONResponse({"error": reason}, status_code=error.status_code, headers=error.headers)

    @app.exception_handler(Exception)
    def failed(_request: HttpRequest, error: Exception) -> JSONResponse:
        logging.getLogger(__name__).error("the explorer could not answer", exc_info=error)
        return JSONResponse({"error": f"{type(error).__name__}: {_first_line(error)}"}, status_code=500)


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
