"""kernels/ is installed as glimp_engine.kernels, because a package named `kernels` exists."""

from setuptools import setup

setup(
    packages=["glimp_engine", "glimp_engine.kernels"],
    package_dir={"glimp_engine": "glimp_engine", "glimp_engine.kernels": "kernels"},
)
