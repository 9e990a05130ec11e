"""`python constraints/install.py LOCK ENVIRONMENT`: fill an environment with a lock's packages and this project.

A lock names every package with its version, so nothing is resolved. uv installs them in a fraction of pip's time, and
is itself installed by pip, into the environment. Where it cannot be had, or fails, pip installs the same packages. Both
use the package index that pip is configured for. Needs nothing but Python with `venv` and `pip`.
"""

import argparse
import ast
import os
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent
OLDEST = (3, 11)
"""The locks are resolved for this Python and later ones."""
LIFE_SIGN = 20.0
"""Seconds after which a command that still runs is mentioned again."""
UV_NAMES = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "no-index": "UV_NO_INDEX",
    "trusted-host": "UV_INSECURE_HOST",
    "cert": "SSL_CERT_FILE",
}
"""Settings of pip that say where packages come from, and the variables in which uv takes them."""


class Failed(RuntimeError):
    """A command failed; the message ends with what it printed."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("lock", type=Path, help="such as constraints/demo.txt")
    parser.add_argument("environment", type=Path, help="made if it is not there")
    parser.add_argument(
        "--over", type=Path, metavar="FOLDER", help="put the packages into this folder instead, without the project"
    )
    options = parser.parse_args(arguments)
    if sys.version_info < OLDEST:
        raise SystemExit(
            f"This Python is {sys.version.split()[0]}; the locks are for {'.'.join(map(str, OLDEST))} and later. Name "
            f"another one (`make demo PYTHON=python3.12`), or install without a lock: `pip install -e .`"
        )
    try:
        python = make_environment(options.environment)
        install(python, options.lock, over=options.over)
    except Failed as failed:
        raise SystemExit(str(failed)) from None


def make_environment(folder: Path) -> Path:
    """The environment's Python, after making the environment if it has none that runs."""
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not (python.exists() and subprocess.run([python, "-c", ""], check=False).returncode == 0):
        say(f"Making {folder} with Python {sys.version.split()[0]}")
        try:
            venv.create(folder, clear=True, with_pip=True)
        except (subprocess.CalledProcessError, OSError) as error:
            raise Failed(
                f"{folder} could not be made ({error}). On Debian and Ubuntu, `venv` is the package python3-venv."
            ) from error
    return python


def install(python: Path, lock: Path, *, over: Path | None = None) -> None:
    """Install all of `lock`, then the project itself; or the lock alone into the folder `over`.

    Raises: Failed if pip, too, cannot.
    """
    packages = ["--no-deps", "-r", str(lock)]
    commands = [packages, ["--no-deps", "--no-build-isolation", "-e", str(HERE.parent)]]
    if over is not None:
        shutil.rmtree(over, ignore_errors=True)
        commands = [[*packages, "--target", str(over)]]
    number = sum(bool(line.strip()) and not line.startswith("#") for line in lock.read_text().splitlines())
    what = f"{number} packages of {lock}"
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "--no-input"]
    try:
        (version,) = (line for line in (HERE / "newest.txt").read_text().split() if line.startswith("uv=="))
        run([*pip, "install", version])
        settings = uv_settings(run([*pip, "config", "list"]))
        uv = [str(python), "-m", "uv", "pip", "install", "--python", str(python)]
        for command, title in zip(commands, (f"Installing {what} with uv", ""), strict=False):
            run([*uv, *command], title, environment={**settings, **os.environ})
    except Failed as failed:
        say(f"{failed}\nNow with pip instead, which takes minutes.")
        for command, title in zip(commands, (f"Installing {what} with pip", ""), strict=False):
            run([*pip, "install", *command], title)


def uv_settings(listing: str) -> dict[str, str]:
    """What `pip config list` says about the origin of packages, as variables for uv; pip's own order of precedence."""
    found: dict[str, str] = {}
    for section in ("global.", "install.", ":env:."):
        for line in listing.splitlines():
            name, _, value = line.partition("=")
            if name.startswith(section) and (variable := UV_NAMES.get(name.removeprefix(section))):
                found[variable] = " ".join(str(ast.literal_eval(value)).split())
    return {
        **found,
        "UV_INDEX_STRATEGY": "unsafe-best-match",  # pip looks into every index; uv's default is the first one
        "UV_PYTHON_DOWNLOADS": "never",
    }


def run(command: Sequence[str], title: str = "", *, environment: dict[str, str] | None = None) -> str:
    """What the command prints, instead of printing it; a life sign while it takes long.

    Raises: Failed with its last lines if it fails.
    """
    if title:
        say(title)
    began = told = time.monotonic()
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        while True:
            try:
                printed, _ = process.communicate(timeout=1)
                break
            except subprocess.TimeoutExpired:
                if time.monotonic() - told > LIFE_SIGN:
                    told = time.monotonic()
                    say(f"  ... {told - began:.0f} s")
            except BaseException:
                process.kill()
                raise
    if process.returncode:
        last = "\n".join(printed.strip().splitlines()[-15:])
        raise Failed(f"`{' '.join(command)}` failed with {process.returncode}:\n{last}")
    return printed


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
