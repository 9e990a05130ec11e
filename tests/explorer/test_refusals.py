"""What the explorer refuses, each with a one-line error, and what it never reveals."""

import io
import struct
import zlib

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from lens_multimodal.explorer import Limits, create_app
from lens_multimodal.explorer.uploads import read_upload
from lens_multimodal.image.pictures import NotAPicture, PictureTooLarge
from tests.explorer.conftest import LIMITS, TEXT, Page, in_format, png
from tests.lenses import picture


def refused(response, status: int, *parts: str) -> None:
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert "\n" not in error
    assert "Traceback" not in error
    for part in parts:
        assert part in error


# --- who may ask -----------------------------------------------------------------------------------------


OTHERS = ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "", "[::2]:8000", "0.0.0.0"]


@pytest.mark.parametrize("host", OTHERS)
@pytest.mark.parametrize("path", ["/", "/api/about", "/api/samples", "/static/main.js"])
def test_another_host_name_is_refused(page, host, path):
    refused(page.client.get(path, headers={"host": host}), 421, "answers only to 127.0.0.1")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:1234", "localhost:8000", "LOCALHOST", "[::1]:8000"])
def test_this_machine_is_served_under_its_own_names(page, host):
    assert page.client.get("/", headers={"host": host}).status_code == 200


def test_two_host_names_are_refused(page):
    headers = [("host", "127.0.0.1:8000"), ("host", "evil.example")]
    refused(page.client.get("/", headers=headers), 421)


@pytest.mark.parametrize("headers", [{}, {"x-explorer-token": "guess"}, {"x-explorer-token": "\xe9".encode("latin-1")}])
def test_a_question_without_the_pages_token_is_refused(page, headers):
    question = {"picture": "sample-1", "text": TEXT}
    refused(page.client.post("/api/look", json=question, headers=headers), 403, "reload it")
    refused(page.client.post("/api/pictures", content=png(picture()), headers=headers), 403)


def test_another_servers_token_is_refused(page, lens, scenes):
    other = Page(TestClient(create_app(lens, scenes=scenes), base_url="http://127.0.0.1:8000"))
    assert other.token != page.token
    headers = {"x-explorer-token": other.token}
    refused(page.client.post("/api/look", json={"picture": "sample-1", "text": TEXT}, headers=headers), 403)


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:9999", "https://127.0.0.1:8000"])
def test_another_pages_question_is_refused_even_with_the_token(page, origin):
    headers = {"x-explorer-token": page.token, "origin": origin}
    refused(page.client.post("/api/look", json={"picture": "sample-1", "text": TEXT}, headers=headers), 403)


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_another_page_cannot_embed_anything(page, site):
    headers = {"sec-fetch-site": site}
    for path in ("/api/pictures/sample-1", "/api/about", "/static/main.js"):
        refused(page.client.get(path, headers=headers), 403)
    assert page.client.get("/", headers=headers).status_code == 200, "a link to the page works"


def test_every_answer_closes_the_page_to_others(page):
    for response in (page.client.get("/"), page.client.get("/api/about"), page.client.get("/nothing")):
        policy = response.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["cross-origin-resource-policy"] == "same-origin"
        assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/openapi.json"])
def test_no_pages_that_load_from_elsewhere(page, path):
    assert page.client.get(path).status_code == 404


# --- files -----------------------------------------------------------------------------------------------

TRICKS = [
    "../app.py", "..%2fapp.py", "%2e%2e%2fapp.py", "..%5capp.py", "....//app.py", "%2fetc%2fpasswd", "/etc/passwd",
    "explorer.css%00.png", "explorer.css/", "EXPLORER.CSS", "index.html", ".", "..", "~root", "C:%5cwindows%5cwin.ini",
    "%c0%ae%c0%ae/app.py", "main.js%3f", "file:%2f%2f%2fetc%2fpasswd",
]  # fmt: skip


@pytest.mark.parametrize("trick", TRICKS)
@pytest.mark.parametrize("folder", ["/static/", "/api/pictures/", "/"])
def test_no_path_leads_to_a_file_that_was_not_given(page, folder, trick):
    response = page.client.get(folder + trick, follow_redirects=False)
    if response.status_code == 200:
        assert response.content == page.client.get("/").content, "some tricks are another spelling of the page itself"
    else:
        assert response.status_code in (404, 405), response.text
        refused(response, response.status_code)
    assert b"root:" not in response.content
    assert b"import" not in response.content.replace(b"important", b"")


IDS = [*TRICKS, "sample-999999", "sample-01", "upload-" + "0" * 32, "sample-1\n", "sample-\u0661"]


@pytest.mark.parametrize("trick", IDS)
def test_no_picture_id_leads_to_a_file(page, trick):
    response = page.post("/api/look", picture=trick, text=TEXT)
    assert response.status_code in (404, 422), response.text
    assert "\n" not in response.json()["error"]


@pytest.mark.parametrize("method", ["put", "delete", "patch", "options"])
def test_other_methods_are_refused(page, method):
    response = getattr(page.client, method)("/api/look", headers={"x-explorer-token": page.token})
    refused(response, 405)


# --- uploads ---------------------------------------------------------------------------------------------


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few hundred bytes that declares any size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [501, 20_000, 2**31 - 1])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(page, side):
    refused(page.upload(bomb(side, side)), 413, "pixels allowed")


def test_a_file_of_too_many_bytes_is_refused(page):
    refused(page.upload(b"\x89PNG" + b"0" * LIMITS.upload_bytes), 413, "200,000 bytes")


def test_a_file_that_lies_about_its_length_is_refused(page):
    def pieces():
        for _ in range(30):
            yield b"0" * 10_000

    headers = {"x-explorer-token": page.token, "content-type": "image/png"}
    response = page.client.post("/api/pictures", content=pieces(), headers=headers)
    refused(response, 413, "larger than")


@pytest.mark.parametrize("length", ["-1", "1e3", "99999999999999999999999", "0x10"])
def test_a_strange_length_is_refused(page, length):
    headers = {"x-explorer-token": page.token, "content-length": length}
    refused(page.client.post("/api/look", content=b"{}", headers=headers), 413)


SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'


OTHER_TYPES = {
    "empty": b"",
    "text": b"hello",
    "pdf": b"%PDF-1.7",
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    "svg": SVG,
    "gif": b"GIF89a" + b"\0" * 50,
    "program": b"MZ" * 40,
}


@pytest.mark.parametrize("data", OTHER_TYPES.values(), ids=OTHER_TYPES)
def test_a_file_of_another_type_is_refused_whatever_it_claims(page, data):
    refused(page.upload(data, "image/png"), 415, "PNG, JPEG, WEBP")


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "ICO", "PPM"])
def test_a_real_picture_of_another_type_is_refused(page, kind):
    refused(page.upload(in_format(picture(), kind), "image/png"), 415)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("cut", [20, 60, 200])
def test_a_cut_off_picture_is_refused(page, kind, cut):
    refused(page.upload(in_format(picture(), kind)[:cut]), 415)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_damaged_pictures_never_do_worse_than_a_clean_refusal(kind):
    data, outcomes = in_format(picture(), kind), []
    for place in range(0, len(data), max(1, len(data) // 150)):
        damaged = bytearray(data)
        damaged[place] ^= 0xFF
        outcomes.append(outcome(bytes(damaged)))
    assert "refused" in outcomes
    assert set(outcomes) <= {"refused", "taken"}, "every other error would be shown here"


def outcome(data: bytes) -> str:
    try:
        return "taken" if read_upload(data, LIMITS).mode == "RGB" else "of another mode"
    except (NotAPicture, PictureTooLarge) as error:
        return "refused in several lines" if "\n" in str(error) else "refused"


def test_nothing_is_written_to_disk(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    name = page.upload(png(picture(7, height=200, width=200))).json()["id"]
    page.ask("/api/why", picture=name, **page.place(name, 0), top_k=3)
    assert list(tmp_path.iterdir()) == []


# --- questions -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "change", "part"),
    [
        ("/api/why", {"top_k": 0}, "top_k"),
        ("/api/why", {"top_k": 101}, "1 to 100"),
        ("/api/why", {"top_k": "3"}, "top_k"),
        ("/api/why", {"top_k": 3, "extra": 1}, "extra"),
        ("/api/why", {"top_k": 3, "target": -1}, "target"),
        ("/api/why", {"top_k": 3, "target": 97}, "(0 to 96)"),
        ("/api/why", {"top_k": 3, "target": 2**24}, "target"),
        ("/api/why", {"top_k": 3, "before": [97]}, "token 97"),
        ("/api/why", {"top_k": 3, "before": [5] * 128}, "shorten the text"),
        ("/api/why", {"top_k": 3, "before": [5] * 129}, "before"),
        ("/api/why", {"top_k": 3, "text": "a dog" * 200}, "text"),
        ("/api/why", {"top_k": 3, "text": None}, "text"),
        ("/api/why", {"top_k": 3, "positions": "first"}, "positions"),
        ("/api/change", {"neurons": [{"layer": 3, "neuron": 0, "factor": 0}]}, "layer 3 is outside"),
        ("/api/change", {"neurons": [{"layer": 0, "neuron": 40, "factor": 0}]}, "neuron 40 is outside"),
        ("/api/change", {"neurons": [{"layer": -1, "neuron": 0, "factor": 0}]}, "layer"),
        ("/api/change", {"neurons": [{"layer": 0, "neuron": 0, "factor": 11}]}, "factor"),
        ("/api/change", {"neurons": [{"layer": 0, "neuron": 0, "factor": 0}] * 2}, "more than once"),
        ("/api/change", {"neurons": [{"layer": 0, "neuron": i % 40, "factor": 0} for i in range(1001)]}, "neurons"),
    ],
)  # fmt: skip
def test_a_wrong_question_is_refused_in_one_line(page, two, path, change, part):
    question = {"picture": two[0], **page.place(two[0], 0), **change}
    response = page.post(path, **question)
    assert response.status_code in (400, 422), response.text
    refused(response, response.status_code, part)


@pytest.mark.parametrize(
    ("path", "change", "part"),
    [
        ("/api/patch", {"layers": [], "patches": [0]}, "layers"),
        ("/api/patch", {"layers": [3], "patches": [0]}, "3 layers (0 to 2)"),
        ("/api/patch", {"layers": [0, 0], "patches": [0]}, "more than once"),
        ("/api/patch", {"layers": [0], "patches": []}, "at least one image position"),
        ("/api/patch", {"layers": [0], "patches": [9]}, "image position 9 is outside"),
        ("/api/patch", {"layers": [0], "patches": [1, 1]}, "more than once"),
        ("/api/sweep", {"layer": 3}, "layer 3 is outside"),
        ("/api/sweep", {"layer": True}, "layer"),
        ("/api/sweep", {"layer": 0, "clean": "upload-00"}, "no longer in memory"),
    ],
)
def test_a_wrong_patch_is_refused_in_one_line(page, two, path, change, part):
    question = {"clean": two[0], "corrupted": two[1], **page.place(two[0], 0), **change}
    response = page.post(path, **question)
    refused(response, response.status_code, part)
    assert response.status_code in (400, 404, 422)


NO_QUESTIONS = {
    "empty": b"",
    "open": b"{",
    "list": b"[]",
    "null": b"null",
    "deep": b"[" * 30_000,
    "surrogate": b'{"picture": "sample-1", "text": "\\ud800"}',
    "bytes": b"\xff\xfe",
    "nan": b'{"picture": NaN}',
}


@pytest.mark.parametrize("body", NO_QUESTIONS.values(), ids=NO_QUESTIONS)
def test_a_body_that_is_not_a_question_is_refused(page, body):
    headers = {"x-explorer-token": page.token, "content-type": "application/json"}
    response = page.client.post("/api/look", content=body, headers=headers)
    assert response.status_code in (400, 422), response.text
    refused(response, response.status_code)


def test_a_question_of_too_many_bytes_is_refused(page):
    refused(page.post("/api/look", picture="sample-1", text="a" * 70_000), 413, "65,536 bytes")


def test_a_failure_of_the_model_itself_is_one_line_too(page, lens, monkeypatch, caplog):
    def fail(*_args, **_kwargs):
        raise RuntimeError("the device is gone\nand more about it")

    monkeypatch.setattr(lens, "interleave", fail)
    client = TestClient(page.client.app, base_url="http://127.0.0.1:8000", raise_server_exceptions=False)
    refused(Page(client).post("/api/look", picture="sample-1", text=TEXT), 500, "RuntimeError: the device is gone")
    assert "and more about it" in caplog.text, "the log has all of it"


def test_a_busy_model_says_so(lens, scenes):
    limits = Limits(wait_s=1)
    app = create_app(lens, scenes=scenes, limits=limits)
    page = Page(TestClient(app, base_url="http://127.0.0.1:8000"))
    with app.state.bench.alone():
        refused(page.post("/api/look", picture="sample-1", text=TEXT), 503, "busy")
    assert page.ask("/api/look", picture="sample-1", text=TEXT)


@pytest.mark.parametrize(
    ("wrong", "part"),
    [({"upload_bytes": 0}, "upload_bytes"), ({"uploads_held": 1}, "uploads_held=1 .* 2"), ({"wait_s": 0.5}, "wait_s")],
)
def test_limits_are_checked(wrong, part):
    with pytest.raises(ValueError, match=part):
        Limits(**wrong)


def test_a_large_picture_in_bounds_is_taken(lens, scenes):
    page = Page(TestClient(create_app(lens, scenes=scenes), base_url="http://127.0.0.1:8000"))
    name = page.upload(in_format(picture(1, height=1500, width=900), "JPEG"), "image/jpeg").json()["id"]
    shown = Image.open(io.BytesIO(page.client.get(f"/api/pictures/{name}").content))
    assert shown.size == (307, 512), "the page gets a small copy"
