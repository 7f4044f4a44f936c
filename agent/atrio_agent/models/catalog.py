"""The models that are known by name, and how much they hold.

A table for lists and for context sizes, no gate: a provider's other models work
as well, they are only not listed and of unknown size. Sizes are in tokens, as
their maker documents them; None where it is not known for sure.
"""

from typing import Final

__all__ = ["DEFAULT_OPENAI", "OPENAI_MODELS"]

OPENAI_MODELS: Final[dict[str, int | None]] = {
    "gpt-6-sol": 1_050_000,
    "gpt-6-luna": 1_050_000,
    "gpt-6-astra": None,
    "gpt-5.5": 1_050_000,
    "gpt-5.4": 1_050_000,
    "gpt-5.4-mini": None,
    "gpt-5.1": 400_000,
    "gpt-5-mini": 400_000,
    "gpt-4.1": 1_047_576,
    "gpt-4o": 128_000,
    "o4-mini": 200_000,
}

DEFAULT_OPENAI: Final = "gpt-6-sol"
"""What is asked where there is a key and no model is named."""
