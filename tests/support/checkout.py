"""The folder of the checkout that the tests lie in; the packages may be installed elsewhere."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
