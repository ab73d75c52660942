"""Data and figures of published worked examples, as notes/statistics_and_reporting.md, section 1.7, gives them (F1..)."""

import numpy as np

# F1. Demšar 2006, Table 6: AUC on 14 datasets of C4.5, +m, +cf, +m+cf. `voting` is printed .975 twice but ranked 2, 3.
DEMSAR = np.array(
    [
        [0.763, 0.768, 0.771, 0.798],
        [0.599, 0.591, 0.590, 0.569],
        [0.954, 0.971, 0.968, 0.967],
        [0.628, 0.661, 0.654, 0.657],
        [0.882, 0.888, 0.886, 0.898],
        [0.936, 0.931, 0.916, 0.931],
        [0.661, 0.668, 0.609, 0.685],
        [0.583, 0.583, 0.563, 0.625],
        [0.775, 0.838, 0.866, 0.875],
        [1.000, 1.000, 1.000, 1.000],
        [0.940, 0.962, 0.965, 0.962],
        [0.619, 0.666, 0.614, 0.669],
        [0.972, 0.981, 0.9751, 0.975],
        [0.957, 0.978, 0.946, 0.970],
    ]
)
DEMSAR_RANKS = np.array([44, 28, 40.5, 27.5]) / 14


# F4. Darwin's maize (Fisher 1935): differences of 15 pairs in eighths of an inch.
MAIZE = np.array([49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48], float)
