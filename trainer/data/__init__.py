"""Where examples come from, and their exact order. For tasks: `Examples`."""

from trainer.data.examples import Examples

__all__ = ["Examples"]
