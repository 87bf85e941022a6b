"""ANTs beside axoloci: where the points of a template lie in a scan, by antspyx.

`python ants_syn.py FA TEMPLATE POINTS.npy OUT.npy`: points (n, 3) in RAS mm; run by
`benchmarks.registration` with the Python that has antspyx.
"""

import sys

import ants
import numpy as np
import pandas as pd

fa, template, points, out = sys.argv[1:]
found = ants.registration(ants.image_read(template), ants.image_read(fa), "SyN")
flip = np.array([-1.0, -1.0, 1.0])  # RAS to ITK's LPS
table = pd.DataFrame(np.load(points) * flip, columns=["x", "y", "z"])
moved = ants.apply_transforms_to_points(3, table, found["fwdtransforms"])
np.save(out, moved[["x", "y", "z"]].to_numpy() * flip)
