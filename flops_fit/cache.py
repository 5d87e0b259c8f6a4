"""Where things are kept that can be made again."""

from __future__ import annotations

import os
from pathlib import Path


def user_cache() -> Path:
    """In the user's cache folder, where the XDG base directory specification has it."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flops-fit"
