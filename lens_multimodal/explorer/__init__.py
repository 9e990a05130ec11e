"""A local page to explore a lens: captions, the neurons behind a word, ablation, patching between two pictures.

    serve()         # the embedded tiny trio, in the browser
    serve(lens)     # your own

One process, loopback only; pictures stay in memory. Needs the extra `explore`.
"""

try:
    from lens_multimodal.explorer.limits import Limits
    from lens_multimodal.explorer.server import serve
    from lens_multimodal.explorer.web_app import create_app
except ModuleNotFoundError as error:
    if error.name not in ("fastapi", "pydantic", "starlette", "uvicorn"):
        raise
    raise ImportError(
        f"the explorer needs {error.name}, which is not installed: pip install 'lens-multimodal[explore]'"
    ) from error

__all__ = ["Limits", "create_app", "serve"]
