"""Starting and stopping: loopback only, clear errors, and a page that is complete without a network."""

import http.client
import re
import socket
import subprocess
import sys
import threading
from importlib.resources import files

import pytest

from lens_multimodal import explorer
from lens_multimodal.explorer import server
from lens_multimodal.explorer.web_app import STATIC

FOLDER = files("lens_multimodal").joinpath("explorer", "static")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.168.0.4", "example.org", "127.0.0.2"])
def test_only_this_machines_own_address(lens, host):
    with pytest.raises(ValueError, match=rf"{host!r}.*ssh -L"):
        explorer.serve(lens, host=host, open_browser=False)


@pytest.mark.parametrize("port", [-1, 65536, True])
def test_a_port_is_a_number_in_range(lens, port):
    with pytest.raises(ValueError, match=f"65535, got {port}"):
        explorer.serve(lens, port=port, open_browser=False)


def test_a_taken_port_is_named(lens):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(OSError, match=rf"port {port}\b"):
            explorer.serve(lens, port=port, open_browser=False)


def test_the_page_is_served_and_opened_and_the_server_stops(lens, monkeypatch):
    opened, started = [], threading.Event()
    monkeypatch.setattr(server.webbrowser, "open", lambda url: (opened.append(url), started.set()))
    made = []
    make = server.make_server
    monkeypatch.setattr(server, "make_server", lambda app: made.append(make(app)) or made[-1])
    thread = threading.Thread(target=explorer.serve, args=[lens], kwargs={"port": 0})
    thread.start()
    assert started.wait(600)
    port = int(re.fullmatch(r"http://127\.0\.0\.1:(\d+)/", opened[0])[1])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    connection.request("GET", "/")
    response = connection.getresponse()
    assert response.status == 200
    assert response.getheader("server") is None
    assert "lens_multimodal" in response.read().decode()
    connection.putrequest("GET", "/", skip_host=True)
    connection.putheader("Host", "evil.example")
    connection.endheaders()
    assert connection.getresponse().status == 421
    connection.close()
    made[0].should_exit = True
    thread.join(60)
    assert not thread.is_alive()
    assert len(lens.virtual_tokens._handles) == 2, "a lens of one's own stays attached"


def test_every_file_of_the_page_is_listed_and_every_listed_file_exists():
    assert sorted(item.name for item in FOLDER.iterdir()) == sorted([*STATIC, "index.html"])


def test_the_page_names_no_other_address():
    allowed = ("http://www.w3.org/2000/svg",)
    for item in FOLDER.iterdir():
        found = re.findall(r"""(?:https?:)?//[\w.-]+\.[a-z]{2,}[^\s"']*""", item.read_text())
        assert [address for address in found if address not in allowed] == [], item.name


def test_the_page_uses_only_elements_and_files_that_exist():
    page = FOLDER.joinpath("index.html").read_text()
    identifiers = set(re.findall(r'\bid="([\w-]+)"', page))
    for item in FOLDER.iterdir():
        if not item.name.endswith(".js"):
            continue
        script = item.read_text()
        asked = set(re.findall(r'\$\("([\w-]+)"\)', script))
        assert asked <= identifiers, item.name
        assert set(re.findall(r'from "\./([\w.]+)"', script)) <= set(STATIC), item.name
        assert "innerHTML" not in script, "text is set as text"
    for control in re.findall(r"<(?:input|select)[^>]*>", page):
        assert "id=" in control


@pytest.mark.parametrize("missing", ["fastapi", "uvicorn"])
def test_without_the_extra_the_error_says_what_to_install(missing):
    code = f"import sys; sys.modules[{missing!r}] = None; import lens_multimodal.explorer"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert f"the explorer needs {missing}" in last
    assert "pip install 'lens-multimodal[explore]'" in last
