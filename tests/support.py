"""What tests of several folders share and is not a fixture."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent


def axoloci(*arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run the `axoloci` command as a user does."""
    done = subprocess.run(
        [str(BIN / "axoloci"), *map(str, arguments)], capture_output=True, text=True
    )
    if check:
        assert done.returncode == 0, done.stderr
    return done
