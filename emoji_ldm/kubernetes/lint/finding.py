"""Finding."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Finding:
    """One obj that is wrong: where it is written, which object it is about, what is wrong and how to mend it."""

    file: str  # as seen from the folder that holds k8s/, such as "k8s/base/train.yaml"
    line: int  # 1 is the first
    object_name: str  # such as "RayJob/train"
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.object_name}: {self.message}"
