"""Any name as a class that cannot be made."""

from typing import Any, NoReturn


class Absent:
    def __init__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise NotImplementedError(f"torchvision's {type(self).__name__} is a stub in this environment.")


def __getattr__(name: str) -> type[Absent]:
    if name.startswith("__"):
        raise AttributeError(name)
    return type(name, (Absent,), {})
