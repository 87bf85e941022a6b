"""ANTs beside axoloci: where the points of a template lie in a scan, by antspyx.

`python ants_syn.py FA TEMPLATE POINTS.npy OUT.npy [CC]`: points (n, 3) in RAS mm; run by
`benchmarks.registration` with the Python that has antspyx.
"""

import sys

import ants
import numpy as np
import pandas as pd

fa, template, points, out, *metric = sys.argv[1:]
more = {"syn_metric": "CC", "syn_sampling": 4, "reg_iterations": (40, 20, 10)} if metric else {}
found = ants.registration(ants.image_read(template), ants.image_read(fa), "SyN", **more)
flip = np.array([-1.0, -1.0, 1.0])  # RAS to ITK's LPS
table = pd.DataFrame(np.load(points) * flip, columns=["x", "y", "z"])
moved = ants.apply_transforms_to_points(3, table, found["fwdtransforms"])
np.save(out, moved[["x", "y", "z"]].to_numpy() * flip)
