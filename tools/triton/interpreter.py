"""Can this Python run the model in the Triton of the nvidia-pytriton wheel? Run as a script by the Makefile.

Runs in any Python from 3.6 on and without the project's packages, since it decides which Python gets them.
Exit code 0: yes; with ``--wheels`` only if no package must be compiled as well. Otherwise 1, the reason on stderr.
"""

import os
import platform
import sys
import sysconfig

OLDEST = (3, 10)
NEWEST = (3, 13)
# The stubs for these versions ask the loader for libpython; the one for 3.13 uses the copy in its wheel.
NEED_SHARED_LIBPYTHON = ((3, 10), (3, 11), (3, 12))
# numpy 1.26, the last that Triton's Python backend 24.10 understands, has no wheel for Python 3.13.
WITHOUT_NUMPY_WHEEL = ((3, 13),)
GLIBC = (2, 35)


def libpython() -> str:
    """Path of the shared library of this Python as its stub asks for it, or "" if there is none."""
    name = "libpython{}.{}.so.1.0".format(*sys.version_info[:2])
    libdir = sysconfig.get_config_var("LIBDIR") or ""
    multiarch = sysconfig.get_config_var("MULTIARCH") or ""
    for folder in (libdir, os.path.join(libdir, multiarch), os.path.join(sys.base_prefix, "lib")):
        if os.path.isfile(os.path.join(folder, name)):
            return os.path.join(folder, name)
    return ""


def platform_problem() -> str:
    """Why there is no nvidia-pytriton wheel for this machine and what to do, or "" if there is one."""
    machine = platform.machine()
    if not sys.platform.startswith("linux") or machine not in ("x86_64", "aarch64"):
        return (
            "nvidia-pytriton has wheels for Linux on x86_64 and aarch64 only; this is "
            f"{sys.platform} on {machine}. Use a Linux machine or virtual machine, or the container (make image)"
        )
    # Not platform.libc_ver(): that tells what the executable asks for, not what the machine has.
    try:
        name, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").split()
    except (ValueError, OSError):
        name, version = "another C library", "0.0"
    if tuple(int(part) for part in version.split(".")[:2]) < GLIBC:
        return (
            f"nvidia-pytriton needs glibc {GLIBC[0]}.{GLIBC[1]} or newer (Debian 12, Ubuntu 22.04); here is "
            f"{name} {version}. Use a newer distribution, or the container (make image)"
        )
    return ""


def python_problem() -> str:
    """Why this Python cannot run the model and what to do, or "" if it can."""
    implementation, full, version = platform.python_implementation(), platform.python_version(), sys.version_info[:2]
    if implementation != "CPython" or not OLDEST <= version <= NEWEST:
        return f"this is {implementation} {full}; the model needs CPython 3.10 to 3.13: make PYTHON=python3.12"
    if version in NEED_SHARED_LIBPYTHON and not libpython():
        name = f"libpython{version[0]}.{version[1]}"
        return (
            f"this Python ({sys.executable}) was built without a shared {name}.so, which Triton's Python backend "
            f"loads. Install it (Debian, Ubuntu: apt-get install {name}), or build Python with --enable-shared (pyenv: "
            f"PYTHON_CONFIGURE_OPTS=--enable-shared pyenv install {full}), or choose another: make PYTHON=…"
        )
    return ""


def wheel_problem() -> str:
    """What must be compiled for this Python, which needs a C compiler, or "" if all packages have wheels."""
    if sys.version_info[:2] in WITHOUT_NUMPY_WHEEL:
        return "numpy 1.26 has no wheel for Python {}.{}".format(*sys.version_info[:2])
    return ""


if __name__ == "__main__":
    problem = platform_problem() or python_problem() or ("--wheels" in sys.argv[1:] and wheel_problem())
    if problem:
        sys.exit("error: " + str(problem))
