"""`make verify`: all long checks, or those named: `python -m benchmarks demo gwas`.

That of a GPU is run where there is one: `python -m benchmarks gwas_gpu`.
"""

from __future__ import annotations

import importlib
import sys

CHECKS = (
    *("demo", "gwas", "gwas_growth", "accuracy", "families", "mice", "exports", "kills"),
    *("preflight", "faults", "quality", "driver", "images", "containers", "tensor"),
    *("registration", "distortion", "preprocess", "participant", "real_scans", "store"),
    *("encoder", "representations", "encoder_options", "pca", "joint", "heritability", "voxels"),
    "clusters",
)

for name in sys.argv[1:] or CHECKS:
    importlib.import_module(f"benchmarks.{name}").main()
