"""The result of the check: one finding, with its location in the sources of the manifests."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Finding:
    """One defect: where it is written, which object it concerns, what is wrong and how to fix it."""

    file: str  # relative to the folder that contains k8s/, such as "k8s/base/train.yaml"
    line: int  # counted from 1
    object_name: str  # such as "RayJob/train"
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.object_name}: {self.message}"
