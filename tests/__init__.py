"""The tests: pure ones, steps on verified fakes, and everything once more on real servers."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
"""The project's root."""
