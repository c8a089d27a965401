"""Finds a Triton server on this machine, or assembles one from the nvidia-pytriton wheel."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tools.triton import interpreter
from tools.triton.errors import TritonNotFound

PROJECT = Path(__file__).resolve().parents[2]
CACHE = PROJECT / ".cache" / "triton"
INSTALLED = Path("/opt/tritonserver/bin/tritonserver")
STUB = "triton_python_backend_stub"


@dataclass(frozen=True)
class Installation:
    """A Triton server that can be started."""

    executable: Path
    origin: str  # where it comes from, for people
    arguments: tuple[str, ...] = ()  # what this installation needs on the command line
    library_path: tuple[Path, ...] = ()  # goes in front of LD_LIBRARY_PATH
    path: tuple[Path, ...] = ()  # goes in front of PATH

    def environment(self, base: Mapping[str, str]) -> dict[str, str]:
        """The environment `base` with what this installation needs."""
        environment = dict(base)
        for name, folders in (("LD_LIBRARY_PATH", self.library_path), ("PATH", self.path)):
            if folders:
                rest = [environment[name]] if environment.get(name) else []
                environment[name] = os.pathsep.join([*map(str, folders), *rest])
        return environment


def find_triton(cache: Path = CACHE) -> Installation:
    """The Triton to use: $TRITON_SERVER, `tritonserver` on the PATH, the container's place, or else the wheel's.

    Raises TritonNotFound if there is none that can run.
    """
    named = os.environ.get("TRITON_SERVER")
    if named:
        if not os.access(named, os.X_OK) or Path(named).is_dir():
            raise TritonNotFound(f"TRITON_SERVER={named} is not an executable file; name the tritonserver program")
        return Installation(Path(named), "TRITON_SERVER")
    on_path = shutil.which("tritonserver")
    if on_path:
        return Installation(Path(on_path), "PATH")
    if os.access(INSTALLED, os.X_OK):
        return Installation(INSTALLED, "container")
    return from_wheel(cache)


def from_wheel(cache: Path = CACHE) -> Installation:
    """The Triton of the installed nvidia-pytriton, assembled for this Python in a folder of `cache` and reused.

    Raises TritonNotFound if the wheel is missing, this platform, Python or numpy does not suit it, or `cache` cannot be
    written.
    """
    problem = interpreter.platform_problem() or interpreter.python_problem()
    if problem:
        raise TritonNotFound(problem)
    spec = importlib.util.find_spec("pytriton")
    if spec is None or not spec.submodule_search_locations:
        raise TritonNotFound(
            "there is no tritonserver on the PATH, and nvidia-pytriton, which carries one, is not installed in "
            f"{sys.prefix}: make setup, or pip install -r requirements/local.txt -c requirements/constraints.txt"
        )
    numpy = importlib.metadata.version("numpy")
    if int(numpy.split(".")[0]) >= 2:
        raise TritonNotFound(
            f"numpy {numpy} is installed, and the Python backend of this Triton reads every tensor as garbage with "
            "numpy 2: pip install 'numpy<2' (requirements/local.txt has the version)"
        )
    package = Path(spec.submodule_search_locations[0])
    source = package / "tritonserver"
    minor = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = source / "python_backend_stubs" / minor / STUB
    version = importlib.metadata.version("nvidia-pytriton")
    if not stub.is_file():
        raise TritonNotFound(
            f"nvidia-pytriton {version} has no Python backend for Python {minor}; use Python 3.10 to 3.13: "
            "make PYTHON=python3.12"
        )
    try:
        home = _assembled(source, stub, cache / f"{version}-python{minor}")
    except OSError as error:  # another's checkout, or a full disk
        raise TritonNotFound(f"the Triton of nvidia-pytriton cannot be put together in {cache}: {error}") from error
    libpython = interpreter.libpython()
    return Installation(
        executable=home / "bin" / "tritonserver",
        origin=f"nvidia-pytriton {version}",
        arguments=(f"--backend-directory={home / 'backends'}", f"--cache-directory={home / 'caches'}"),
        library_path=(package.parent / "nvidia_pytriton.libs", *([Path(libpython).parent] if libpython else [])),
        path=(Path(sys.prefix) / "bin",),  # the stub takes the environment of the first python3 on the PATH
    )


def _assembled(source: Path, stub: Path, home: Path) -> Path:
    """`home` with the server's files in it. It appears complete or not at all, whoever else assembles it."""
    if home.is_dir():
        return home
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{home.name}.", dir=home.parent) as work:
        draft = Path(work) / "triton"
        for name in ("bin", "backends", "caches"):
            shutil.copytree(source / name, draft / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copyfile(stub, draft / "backends" / "python" / STUB)
        for program in (draft / "bin" / "tritonserver", draft / "backends" / "python" / STUB):
            program.chmod(0o755)  # wheels do not keep the run bits
        try:
            draft.rename(home)
        except OSError:
            if not home.is_dir():  # anything but another process that was faster
                raise
    return home
