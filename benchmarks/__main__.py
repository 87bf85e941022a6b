"""`make verify`: all long checks, or those named: `python -m benchmarks demo gwas`."""

from __future__ import annotations

import importlib
import sys

CHECKS = ("demo", "gwas", "preflight", "faults", "driver", "images", "containers")

for name in sys.argv[1:] or CHECKS:
    importlib.import_module(f"benchmarks.{name}").main()
