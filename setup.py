"""Packages of the wheel: lgbench, and tasks/ and methods/ as lgbench.tasks and lgbench.methods."""

from setuptools import find_packages, setup


def plugins(folder: str) -> list[str]:
    """The folder as a package of lgbench, with the small packages in it."""
    return [f"lgbench.{folder}", *(f"lgbench.{folder}.{name}" for name in find_packages(folder))]


setup(packages=[*find_packages(include=["lgbench", "lgbench.*"]), *plugins("tasks"), *plugins("methods")])
