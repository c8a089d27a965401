"""`python -m tools.environment FOLDER` makes what `make setup` makes: an environment with what requirements/ ask for.

uv makes it, with packages from where pip would take them: pip's settings are handed on. Where uv cannot be had, pip
makes it. Runs in the Python that the environment is to have, or in the environment itself; standard library only.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import os
import shutil
import ssl
import subprocess
import sys
import tempfile
import urllib.request
import venv
from collections.abc import Mapping, Sequence
from pathlib import Path

from tools.triton import interpreter

PROJECT = Path(__file__).resolve().parents[1]
WANTED = ("-r", "requirements/dev.txt", "-c", "requirements/constraints.txt", "-e", "./client[gateway]")

TORCH_FOR_CPUS = "https://download.pytorch.org/whl/cpu"
PATIENCE_S = 5.0
NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
# A Python that every package has wheels for, for machines that have only others.
PYTHON_WITH_WHEELS = "3.12"

# Settings of pip, and the variables that tell uv the same.
VARIABLES = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "trusted-host": "UV_INSECURE_HOST",
    "default-timeout": "UV_HTTP_TIMEOUT",
    "timeout": "UV_HTTP_TIMEOUT",
    "cert": "SSL_CERT_FILE",
    "client-cert": "SSL_CLIENT_CERT",
    "proxy": "ALL_PROXY",
}
SOURCES = ("index-url", "extra-index-url", "find-links", "no-index")


class SetupFailed(Exception):
    """There is no environment, and why."""


def make(folder: Path, *, keep_python: bool) -> None:
    """Makes the environment in `folder`, or brings it up to date if this Python is in it. Raises SetupFailed.

    Where this Python would have to compile packages, uv looks for another one, unless `keep_python`.
    """
    with tempfile.TemporaryDirectory() as scratch:
        pip = find_pip(Path(scratch) / "pip")
        settings = pip_settings(pip) if pip else {}
        cpu = wants_torch_for_cpus(settings)
        uv = find_uv(pip, Path(scratch) / "uv")
        if uv and make_by_uv(uv, folder, settings, cpu=cpu, keep_python=keep_python):
            return
        say(f"{'uv failed' if uv else 'uv cannot be had here'}: pip does it, which takes longer")
        make_by_pip(folder, cpu=cpu)


def find_pip(scratch: Path) -> list[str]:
    """The command of this Python's pip, or of one in `scratch` (Debian's Python has none); [] if there is neither."""
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    try:
        venv.create(scratch, with_pip=True)
    except subprocess.CalledProcessError:
        return []
    return [str(scratch / "bin" / "python"), "-m", "pip"]


def find_uv(pip: Sequence[str], scratch: Path) -> str | None:
    """The uv of this environment or on the PATH, or else one from the package index, which goes into `scratch`."""
    found = shutil.which(str(Path(sys.executable).with_name("uv"))) or shutil.which("uv")
    install = [*pip, "install", "--disable-pip-version-check", "--no-compile", "--target", str(scratch)]
    if not found and pip and succeeds([*install, "-r", "requirements/uv.txt"], quiet=True):
        found = str(scratch / "bin" / "uv")
    return found


def make_by_uv(uv: str, folder: Path, settings: Mapping[str, str], *, cpu: bool, keep_python: bool) -> bool:
    """Whether uv made it."""
    environment = uv_variables(settings) | ({"UV_TORCH_BACKEND": "cpu"} if cpu else {}) | os.environ
    create = [uv, "venv", "--quiet", "--clear", str(folder), "--python"]
    compiling = interpreter.wheel_problem()
    if not runs_in(folder):
        other = [*create, PYTHON_WITH_WHEELS, "--managed-python"] if compiling and not keep_python else None
        if other and succeeds(other, environment, quiet=True):
            say(f"{compiling}: uv has brought a Python {PYTHON_WITH_WHEELS} in its place")
            compiling = ""
        elif not succeeds([*create, sys.executable], environment):
            return False
    if compiling:
        say(f"{compiling}: it is compiled, which needs a C compiler and takes minutes")
    # With pip, which environments by uv come without, for whoever wants more in it.
    install = [uv, "pip", "install", "--python", str(folder), "pip", *WANTED]
    return succeeds([*install, *uv_options(settings)], environment)


def make_by_pip(folder: Path, *, cpu: bool) -> None:
    if not runs_in(folder):
        try:
            venv.create(folder, clear=True, with_pip=True)
        except subprocess.CalledProcessError:
            raise SetupFailed(
                f"{sys.executable} cannot make environments with pip, and there is no uv. Install python3-venv "
                "(Debian, Ubuntu) or uv, or choose another Python: make PYTHON=…"
            ) from None
    index = ["--extra-index-url", TORCH_FOR_CPUS] if cpu else []
    install = [str(folder / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check"]
    if not succeeds([*install, *index, *WANTED]):
        raise SetupFailed("pip could not install what requirements/ asks for; what it says above is why")


def pip_settings(pip: Sequence[str]) -> dict[str, str]:
    """What pip goes by when it installs: from its files and the variables PIP_…, by the long names of its options."""
    try:
        command = [*pip, "config", "list"]
        listed = subprocess.run(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True, check=True).stdout
    except subprocess.CalledProcessError:
        raise SetupFailed("pip cannot read its settings; what it says above is why") from None
    settings = {}
    for kind in ("global", "install", ":env:"):  # each overrules those before
        for line in listed.splitlines():
            key, equals, value = line.partition("=")
            section, _, name = key.partition(".")
            if equals and section == kind:
                settings[name] = str(ast.literal_eval(value))
    return settings


def uv_variables(settings: Mapping[str, str]) -> dict[str, str]:
    """The variables that have uv take packages from where pip takes them, and choose as pip does."""
    variables = {variable: settings[name] for name, variable in VARIABLES.items() if name in settings}
    # Of several, pip's files have one on a line, and the variables of uv something between.
    for variable, value in variables.items():
        variables[variable] = ("," if variable == "UV_FIND_LINKS" else " ").join(value.split())
    return variables | {
        "UV_INDEX_STRATEGY": "unsafe-best-match"
    }  # the best of all indexes, not of the first that has any


def uv_options(settings: Mapping[str, str]) -> list[str]:
    """What uv is told by options, since there is no variable, or one that an option of ours would hide."""
    options = ["--no-index"] if settings.get("no-index", "false").lower() in ("1", "on", "true", "yes") else []
    return options + [part for file in settings.get("constraint", "").split() for part in ("-c", file)]


def wants_torch_for_cpus(settings: Mapping[str, str]) -> bool:
    """Whether torch comes from PyTorch's index for machines without a GPU, since PyPI's brings gigabytes for GPUs."""
    sources = [name for name in SOURCES if name in settings]
    if sources:
        say(f"Packages come from where pip is told to look: {', '.join(sources)}")
        return False
    if NVIDIA_DRIVER.exists() or shutil.which("nvidia-smi"):
        return False
    proxies = dict.fromkeys(("http", "https"), settings["proxy"]) if "proxy" in settings else None
    try:
        certificates = ssl.create_default_context(cafile=settings.get("cert"))
        handlers = urllib.request.HTTPSHandler(context=certificates), urllib.request.ProxyHandler(proxies)
        urllib.request.build_opener(*handlers).open(f"{TORCH_FOR_CPUS}/torch/", timeout=PATIENCE_S).close()
    except OSError:
        say(f"No GPU, and {TORCH_FOR_CPUS} cannot be reached: torch comes from PyPI, with gigabytes of CUDA libraries")
        return False
    say(f"No GPU: torch comes from {TORCH_FOR_CPUS}")
    return True


def runs_in(folder: Path) -> bool:
    """Whether this Python is that of the environment in `folder`."""
    return Path(sys.prefix).resolve() == folder.resolve()


def succeeds(command: Sequence[str], environment: Mapping[str, str] | None = None, *, quiet: bool = False) -> bool:
    """Whether a command, run in the project's folder, ends with 0. `quiet` drops what it says."""
    output = subprocess.DEVNULL if quiet else None
    try:
        return subprocess.run(command, cwd=PROJECT, env=environment, stdout=output, stderr=output).returncode == 0
    except OSError:
        return False


def say(text: str) -> None:
    print(text, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.environment", description="Makes the environment in FOLDER.")
    parser.add_argument("folder", metavar="FOLDER", type=Path)
    parser.add_argument("--keep-python", action="store_true", help="whatever this Python has to compile")
    options = parser.parse_args(arguments)
    try:
        make(options.folder.absolute(), keep_python=options.keep_python)
    except SetupFailed as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
