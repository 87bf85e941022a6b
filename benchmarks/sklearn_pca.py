"""Incremental PCA of scikit-learn; `pca.py` says what for.

Run by the Python of an environment that has scikit-learn:
`python sklearn_pca.py MAPS N_VOXELS N_COMPONENTS BATCH N_BATCHES OUT.npy`. Prints the seconds of
each batch, reading left out.
"""

import sys
import time

import numpy as np
from sklearn.decomposition import IncrementalPCA

path, n_voxels, n_components, batch, n_batches, out = (
    sys.argv[1],
    *map(int, sys.argv[2:6]),
    sys.argv[6],
)
pca = IncrementalPCA(n_components)
for number in range(n_batches):
    n = batch * n_voxels
    rows = np.fromfile(path, np.float16, n, offset=2 * n * number).astype(np.float32)
    begin = time.perf_counter()
    pca.partial_fit(rows.reshape(batch, n_voxels))
    print(time.perf_counter() - begin)
np.save(out, pca.components_)
