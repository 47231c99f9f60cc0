"""Scripts with `model.fit`: run as they are, on several workers too, and gone on with at the next batch."""

from typing import Any

__all__ = ["Resume"]


def __getattr__(name: str) -> Any:
    if name != "Resume":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from trainer.keras.resume import Resume  # here, since it needs TensorFlow, and not all of this room does

    return Resume
