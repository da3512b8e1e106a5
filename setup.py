"""Builds csrc/ with CMake and ninja; kernels/ is installed as glimp_engine.kernels, as a package `kernels` exists."""

import os
import shutil
import subprocess
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

LIBRARIES = ["libglimp", *(["libglimp_cuda"] if shutil.which("nvcc") else [])]
COMPILERS = ("c++", "g++", "clang++")


class CMakeBuild(build_ext):
    """Shared libraries behind a C ABI, so that they serve every Python and every torch."""

    def get_ext_filename(self, fullname: str) -> str:
        return os.path.join(*fullname.split(".")) + ".so"

    def build_extension(self, ext: Extension) -> None:
        check_tools()
        root, build = Path(__file__).parent.resolve(), Path(self.build_temp).resolve()
        library = Path(self.get_ext_fullpath(ext.name)).resolve()
        subprocess.run(["cmake", "-S", root, "-B", build, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release"], check=True)
        subprocess.run(["cmake", "--build", build], check=True)
        if not (build / library.name).exists():
            raise CompileError(f"{library.name} was not built: CMake did not accept nvcc")
        library.parent.mkdir(parents=True, exist_ok=True)
        library.unlink(missing_ok=True)  # a running process may have the old one mapped
        shutil.copy2(build / library.name, library)


def check_tools() -> None:
    """Say what to install before CMake says it in its own words."""
    if not os.environ.get("CXX") and not any(map(shutil.which, COMPILERS)):
        raise CompileError(
            "glimp_engine needs a C++17 compiler and found none of "
            f"{', '.join(COMPILERS)}: install one (Debian, Ubuntu: apt install g++; Fedora: dnf install gcc-c++; "
            "macOS: xcode-select --install), or set CXX"
        )
    for tool in ("cmake", "ninja"):
        if not shutil.which(tool):
            raise CompileError(f"glimp_engine needs {tool} and found none: pip install {tool}")


setup(
    packages=[
        *find_packages(include=["glimp_engine", "glimp_engine.*"]),
        *(f"glimp_engine.{name}" for name in find_packages(include=["kernels", "kernels.*"])),
    ],
    package_dir={"glimp_engine": "glimp_engine", "glimp_engine.kernels": "kernels"},
    ext_modules=[
        Extension(f"glimp_engine.kernels.{name}", sources=[], optional=name != "libglimp") for name in LIBRARIES
    ],
    cmdclass={"build_ext": CMakeBuild},
)
