"""Trainings and their evaluation. The package can be called: `lgbench.run(task=…)` is `lgbench.api.run`."""

import sys
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    def __call__(self, *arguments: Any, **options: Any) -> Any:
        from lgbench.api import run

        return run(*arguments, **options)


sys.modules[__name__].__class__ = _Callable
