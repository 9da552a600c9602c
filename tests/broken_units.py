"""Units with a line of their source changed, to see that proofs refuse them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from types import FunctionType, ModuleType


@contextmanager
def changed(unit: type, before: str, after: str) -> Iterator[None]:
    """Within the context, a unit's methods are those of its module with a text replaced.

    Raises
    ------
    ValueError
        If the text is not there exactly once.
    """
    module = inspect.getmodule(unit)
    source = inspect.getsource(module)
    if source.count(before) != 1:
        raise ValueError(f"text must occur once in {module.__name__}, not {source.count(before)}x")
    broken = ModuleType(module.__name__)
    code = compile(source.replace(before, after), f"{module.__name__} changed", "exec")
    exec(code, broken.__dict__)
    kept = {name: value for name, value in vars(unit).items() if inspect.isfunction(value)}
    try:
        for name in kept:
            if name != "__init__":  # it calls super() of its own class
                method = getattr(broken, unit.__name__).__dict__[name]
                # Among the module's own names: its enumerations must stay the same ones.
                globals_ = vars(module)
                defaults = method.__defaults__
                setattr(unit, name, FunctionType(method.__code__, globals_, name, defaults))
        yield
    finally:
        for name, value in kept.items():
            setattr(unit, name, value)
