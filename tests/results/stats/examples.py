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
DEMSAR_AS_PRINTED = np.where(DEMSAR == 0.9751, 0.975, DEMSAR)

# F3. García and Herrera 2008: rank sums of C4.5, 1-NN, NaiveBayes, Kernel, CN2 over 30 datasets, and z-test p of pairs.
GARCIA_RANKS = np.array([63, 97.5, 66, 130, 93.5]) / 30
GARCIA_P = {
    (0, 3): 4.486991e-08,
    (2, 3): 1.736118e-07,
    (3, 4): 0.002880485,
    (0, 1): 0.004848763,
    (1, 3): 0.007963489,
    (1, 2): 0.010112334,
    (0, 4): 0.012763008,
    (2, 4): 0.024744672,
    (1, 4): 0.743971478,
    (0, 2): 0.806495941,
}

# F4. Darwin's maize (Fisher 1935): differences of 15 pairs in eighths of an inch.
MAIZE = np.array([49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48], float)

# F6. Zar, Example 12.6, and F7, both in the tests of scipy.
ZAR = np.array(
    [
        [7.0, 9.9, 8.5, 5.1, 10.3],
        [5.3, 5.7, 4.7, 3.5, 7.7],
        [4.9, 7.6, 5.5, 2.8, 8.4],
        [8.8, 8.9, 8.1, 3.3, 9.1],
    ]
).T
SCIPY = np.array(
    [
        [4, 3, 5, 3, 5, 3, 2, 5, 4, 4, 4, 3],
        [2, 2, 1, 2, 3, 1, 2, 3, 2, 1, 1, 3],
        [2, 4, 3, 3, 4, 3, 3, 4, 4, 1, 2, 1],
        [3, 5, 4, 3, 4, 4, 3, 3, 3, 4, 4, 4],
    ],
    float,
).T
