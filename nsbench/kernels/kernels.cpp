// Scores of query vectors against rows of an entity table, on a CPU, without ever building [B, K, D] or [Q, N, D]; and what
// stands between the matrix products of DHNS's chain (nsbench.samplers.parts.denoiser); and MMRNS's draws.
// Plain C entry points over float32 and int64 arrays, row after row; kernels.py compiles and calls them.
//
// Every sum runs in an order that depends on the shapes alone, never on the number of threads: a thread owns whole rows
// of the result. NaN and infinities are carried through (the build never uses -ffinite-math-only).

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>
#if defined(__AVX__)
#include <immintrin.h>
#endif

namespace {

constexpr int AHEAD = 2;  // how many rows before its use a row is asked for

enum Kind { DOT, L1, L2, MODULI };  // the order of KINDS in kernels.py; moduli: [real half | imaginary half]

#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif
typedef float Vec __attribute__((vector_size(LANES * sizeof(float))));
typedef int32_t Bits __attribute__((vector_size(LANES * sizeof(float))));

Vec magnitude(Vec x) { return (Vec)((Bits)x & 0x7fffffff); }

// Square root of x + TINY and its inverse: a length of zero counts as 1e-15, with gradient zero.
// On x86: an approximation to 12 or 14 bits and one Newton step, in half the time of a square root and a division.
constexpr float TINY = 1e-30f;
Vec inverse_root(Vec x) {
    x += TINY;
#if defined(__AVX512F__)
    const Vec y = _mm512_rsqrt14_ps(x);
    return y * (1.5f - 0.5f * (x * y) * y);
#elif defined(__AVX__)
    const Vec y = _mm256_rsqrt_ps(x);
    return y * (1.5f - 0.5f * (x * y) * y);
#else
    for (int i = 0; i < LANES; i++) x[i] = 1.0f / std::sqrt(x[i]);
    return x;
#endif
}
Vec root(Vec x) {
    x += TINY;
#if defined(__AVX512F__)
    const Vec y = _mm512_rsqrt14_ps(x), root = x * y;
    return root * (1.5f - 0.5f * root * y);
#elif defined(__AVX__)
    const Vec y = _mm256_rsqrt_ps(x), root = x * y;
    return root * (1.5f - 0.5f * root * y);
#else
    for (int i = 0; i < LANES; i++) x[i] = std::sqrt(x[i]);
    return x;
#endif
}
Vec inverse_modulus(Vec re, Vec im) { return inverse_root(re * re + im * im); }
Vec modulus(Vec re, Vec im) { return root(re * re + im * im); }

// The first n lanes from memory (all, if n is larger), zero in the others; and back.
Vec load(const float* p, int64_t n) {
#if defined(__AVX512F__)
    return _mm512_maskz_loadu_ps(n < LANES ? (1 << n) - 1 : 0xffff, p);
#else
    Vec x = {};
    if (n >= LANES) std::memcpy(&x, p, sizeof x);
    else for (int64_t i = 0; i < n; i++) x[i] = p[i];
    return x;
#endif
}
void store(float* p, Vec x, int64_t n) {
#if defined(__AVX512F__)
    _mm512_mask_storeu_ps(p, n < LANES ? (1 << n) - 1 : 0xffff, x);
#else
    if (n >= LANES) std::memcpy(p, &x, sizeof x);
    else for (int64_t i = 0; i < n; i++) p[i] = x[i];
#endif
}

// The sum behind one score: the dot product, or what a distance is made of (L2: its square).
template <Kind kind>
float total(const float* a, const float* b, int64_t d) {
    float sum = 0;
    if constexpr (kind == MODULI) {
        Vec lanes = {};
        const int64_t half = d / 2;
        for (int64_t i = 0; i < half; i += LANES) {
            const Vec re = load(a + i, half - i) - load(b + i, half - i);
            const Vec im = load(a + half + i, half - i) - load(b + half + i, half - i);
            lanes += modulus(re, im);
        }
        for (int i = 0; i < LANES; i++) sum += lanes[i];
    } else {
        for (int64_t i = 0; i < d; i++) {
            const float x = a[i] - b[i];
            sum += kind == DOT ? a[i] * b[i] : kind == L1 ? std::fabs(x) : x * x;
        }
    }
    return sum;
}

template <Kind kind>
float score(float total, float margin) {
    return kind == DOT ? total : margin - (kind == L2 ? std::sqrt(total) : total);
}

// out += g * (gradient of score(a, b) with respect to a). The kinds are symmetric: swap a and b for the other one.
template <Kind kind>
void add_gradient(float g, const float* __restrict a, const float* __restrict b, float* __restrict out, int64_t d) {
    if constexpr (kind == DOT) {
        for (int64_t i = 0; i < d; i++) out[i] += g * b[i];
    } else if constexpr (kind == L1) {
        for (int64_t i = 0; i < d; i++) {
            const float x = b[i] - a[i];
            out[i] += x == 0 ? 0 : std::copysign(1.0f, x) * g;
        }
    } else if constexpr (kind == L2) {
        const float square = total<L2>(a, b, d);
        const float w = square == 0 ? 0 : g / std::sqrt(square);
        for (int64_t i = 0; i < d; i++) out[i] += w * (b[i] - a[i]);
    } else {
        const int64_t half = d / 2;
        for (int64_t i = 0; i < half; i += LANES) {
            const int64_t n = half - i;
            const Vec re = load(b + i, n) - load(a + i, n), im = load(b + half + i, n) - load(a + half + i, n);
            const Vec w = g * inverse_modulus(re, im);
            store(out + i, load(out + i, n) + w * re, n);
            store(out + half + i, load(out + half + i, n) + w * im, n);
        }
    }
}

// Asks for a row of the table a few rows before it is read: where ids lead, the processor cannot guess.
void prefetch(const float* row, int64_t d) {
    for (int64_t i = 0; i < d; i += 16) __builtin_prefetch(row + i);
}

template <Kind kind>
void forward(const float* q, const float* table, const int64_t* ids, float* out, int64_t rows, int64_t k, int64_t d,
             float margin, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t b = 0; b < rows; b++)
        for (int64_t i = b * k; i < (b + 1) * k; i++) {
            prefetch(table + ids[std::min(i + AHEAD, rows * k - 1)] * d, d);
            out[i] = score<kind>(total<kind>(q + b * d, table + ids[i] * d, d), margin);
        }
}

// The same scores, entity by entity within blocks of queries that stay in the second cache: where a block meets an entity
// several times, the table passes once instead of a row for each pair.
constexpr int64_t BLOCK_BYTES = 400 << 10;
template <Kind kind>
void forward_by_entity(const float* q, const float* table, const int64_t* ids, float* out, int64_t rows, int64_t k,
                       int64_t n, int64_t d, float margin, int threads) {
    const int64_t block = std::max<int64_t>(1, BLOCK_BYTES / (d * sizeof(float)));
#pragma omp parallel num_threads(threads)
    {
        std::vector<int32_t> end(n + 1), position(std::min(block, rows) * k);
#pragma omp for schedule(dynamic, 1)
        for (int64_t first = 0; first < rows; first += block) {
            const int64_t pairs = std::min(block, rows - first) * k;
            const int64_t* of = ids + first * k;
            std::fill(end.begin(), end.end(), 0);
            for (int64_t i = 0; i < pairs; i++) end[of[i] + 1]++;
            for (int64_t e = 0; e < n; e++) end[e + 1] += end[e];
            for (int64_t i = 0; i < pairs; i++) position[end[of[i]]++] = (int32_t)i;
            for (int64_t p = 0; p < pairs; p++) {
                const int64_t i = position[p];
                prefetch(table + of[position[std::min(p + 2 * AHEAD, pairs - 1)]] * d, d);
                out[first * k + i] = score<kind>(total<kind>(q + (first + i / k) * d, table + of[i] * d, d), margin);
            }
        }
    }
}

template <Kind kind>
void query_gradient(const float* q, const float* table, const int64_t* ids, const float* grad, float* dq, int64_t rows,
                    int64_t k, int64_t d, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t b = 0; b < rows; b++) {
        std::fill_n(dq + b * d, d, 0.0f);
        for (int64_t i = b * k; i < (b + 1) * k; i++) {
            prefetch(table + ids[std::min(i + AHEAD, rows * k - 1)] * d, d);
            add_gradient<kind>(grad[i], q + b * d, table + ids[i] * d, dq + b * d, d);
        }
    }
}

// out [B, K, D]: the gradient of every score with respect to its row of the table.
template <Kind kind>
void each_gradient(const float* q, const float* table, const int64_t* ids, const float* grad, float* out, int64_t rows,
                   int64_t k, int64_t d, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t b = 0; b < rows; b++)
        for (int64_t i = b * k; i < (b + 1) * k; i++) {
            prefetch(table + ids[std::min(i + AHEAD, rows * k - 1)] * d, d);
            std::fill_n(out + i * d, d, 0.0f);
            add_gradient<kind>(grad[i], table + ids[i] * d, q + b * d, out + i * d, d);
        }
}

// Groups the positions of `ids` by entity (counting sort), so that one thread writes each row of the result, in order.
template <Kind kind>
void table_gradient(const float* q, const float* table, const int64_t* ids, const float* grad, float* dtable,
                    int64_t rows, int64_t k, int64_t n, int64_t d, int threads) {
    std::vector<int64_t> end(n + 1, 0), position(rows * k);
    for (int64_t i = 0; i < rows * k; i++) end[ids[i] + 1]++;
    for (int64_t e = 0; e < n; e++) end[e + 1] += end[e];
    for (int64_t i = 0; i < rows * k; i++) position[end[ids[i]]++] = i;  // end[e] moves from the start of e to its end
#pragma omp parallel for num_threads(threads) schedule(dynamic, 128)
    for (int64_t e = 0; e < n; e++) {
        float* out = dtable + e * d;
        std::fill_n(out, d, 0.0f);
        if (kind != DOT) prefetch(table + std::min(e + AHEAD, n - 1) * d, d);
        for (int64_t p = e ? end[e - 1] : 0; p < end[e]; p++)
            add_gradient<kind>(grad[position[p]], table + e * d, q + position[p] / k * d, out, d);
    }
}

// A tile is DOWN queries against PANEL table rows; its sums fill half of the vector registers.
constexpr int DOWN = 4, ACROSS = LANES == 16 ? 4 : 2, PANEL = LANES * ACROSS;

// One tile; `panel` holds PANEL table rows as [D, PANEL], so a lane is an entity and no sum crosses lanes.
template <Kind kind, bool scaled>
void tile(const float* const q[DOWN], const float* const scale[DOWN], const float* panel, Vec sum[DOWN][ACROSS],
          int64_t d) {
    constexpr int parts = kind == MODULI ? 2 : 1;
    const int64_t width = d / parts;
    Vec acc[DOWN][ACROSS] = {};
    for (int64_t i = 0; i < width; i++) {
        Vec c[parts][ACROSS];
        for (int p = 0; p < parts; p++)
            for (int j = 0; j < ACROSS; j++) c[p][j] = *(const Vec*)(panel + (i + p * width) * PANEL + j * LANES);
        for (int r = 0; r < DOWN; r++)
            for (int j = 0; j < ACROSS; j++) {
                Vec x[parts];
                for (int p = 0; p < parts; p++) {
                    const int64_t at = i + p * width;
                    x[p] = scaled ? q[r][at] - c[p][j] * scale[r][at] : q[r][at] - c[p][j];
                }
                if constexpr (kind == DOT) acc[r][j] += q[r][i] * (scaled ? c[0][j] * scale[r][i] : c[0][j]);
                else if constexpr (kind == L1) acc[r][j] += magnitude(x[0]);
                else if constexpr (kind == L2) acc[r][j] += x[0] * x[0];
                else acc[r][j] += modulus(x[0], x[1]);
            }
    }
    for (int r = 0; r < DOWN; r++)
        for (int j = 0; j < ACROSS; j++) sum[r][j] = acc[r][j];
}

// [D, PANEL]: rows of a table turned into columns; what stands behind the last is not read out.
struct Panel {
    std::vector<float> memory;
    float* at;

    explicit Panel(int64_t d) : memory(d * PANEL + LANES, 0.0f), at(memory.data()) {
        while ((uintptr_t)at % sizeof(Vec)) at++;
    }

    void fill(const float* rows, int64_t count, int64_t d) {
        for (int64_t e = 0; e < count; e++)
            for (int64_t i = 0; i < d; i++) at[i * PANEL + e] = rows[e * d + i];
    }
};

template <Kind kind, bool scaled>
void pairs(const float* q, const float* table, const float* scale, float* out, int64_t rows, int64_t n, int64_t d,
           float margin, int threads) {
#pragma omp parallel num_threads(threads)
    {
        Panel turned(d);
        const float* panel = turned.at;
#pragma omp for schedule(dynamic, 1)
        for (int64_t first = 0; first < n; first += PANEL) {
            const int64_t count = std::min<int64_t>(PANEL, n - first);
            turned.fill(table + first * d, count, d);
            for (int64_t b = 0; b < rows; b += DOWN) {
                const float *left[DOWN], *factor[DOWN];
                for (int r = 0; r < DOWN; r++) {  // past the last query: score it again, and throw that away
                    left[r] = q + std::min(b + r, rows - 1) * d;
                    factor[r] = scaled ? scale + std::min(b + r, rows - 1) * d : nullptr;
                }
                alignas(64) Vec sum[DOWN][ACROSS];
                tile<kind, scaled>(left, factor, panel, sum, d);
                for (int64_t r = 0; r < std::min<int64_t>(DOWN, rows - b); r++)
                    for (int64_t e = 0; e < count; e++)
                        out[(b + r) * n + first + e] = score<kind>(sum[r][e / LANES][e % LANES], margin);
            }
        }
    }
}

// The noise of a race: Threefry-2x32 of 13 rounds (Salmon et al., SC 2011), a function of key and place. One call gives the
// numbers of two columns.
struct Key { uint32_t word[3]; };

inline void threefry(const Key& key, uint32_t& x, uint32_t& y) {
    constexpr int by[8] = {13, 15, 26, 6, 17, 29, 16, 24};
    x += key.word[0];
    y += key.word[1];
#pragma GCC unroll 13
    for (int i = 0; i < 13; i++) {
        x += y;
        y = (y << by[i % 8] | y >> (32 - by[i % 8])) ^ x;
        if (i % 4 == 3) {
            x += key.word[(i / 4 + 1) % 3];
            y += key.word[(i / 4 + 2) % 3] + i / 4 + 1;
        }
    }
}

// -log(1 - u), u a multiple of 2**-24 whose smallest value stands for half of the next. With f = m - 1 in [-0.3, 0.42) the
// logarithm of m is 2 artanh(f / (2 + f)); the series is good to 3e-9.
inline float exponential(uint32_t word) {
    const float left = (float)(int32_t)((1 << 24) - (word >> 8)) * 0x1p-24f;
    int32_t bits;
    std::memcpy(&bits, &left, sizeof bits);
    const int32_t power = (bits - 0x3f3504f3) >> 23, rest = bits - (power << 23);
    float m;
    std::memcpy(&m, &rest, sizeof m);
    const float s = (m - 1) / (m + 1), z = s * s;
    const float log = power * 0.693147181f + 2 * s * (1 + z * (1 / 3.0f + z * (0.2f + z * (1 / 7.0f + z * (1 / 9.0f)))));
    return std::max(-log, 0x1p-25f);
}

inline int32_t bits_of(float x) {
    int32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
}

// One row's draws: a candidate c wins with the largest p_c / E_c, E_c exponential; y = p / E over its sum. The p of
// candidates that are known, drawn or below `never` are 0; the others are relative to the largest of them when `fill` was
// last called, which is again where all that are left would lose their digits.
struct Race {
    const float* log_p;
    int64_t n, half;
    Key key;
    float never;
    std::vector<float> p, y;
    std::vector<char> gone;

    Race(int64_t n, uint64_t seed, float never) : n(n), half((n + 1) / 2), never(never), p(2 * half), y(2 * half), gone(n) {
        const uint32_t low = (uint32_t)seed, high = (uint32_t)(seed >> 32);
        key = {{low, high, 0x1bd11bdau ^ low ^ high}};
    }

    void start(const float* row, const bool* known) {
        log_p = row;
        std::copy_n(known, n, gone.data());
        fill();
    }

    void fill() {
        float top = never;
        for (int64_t i = 0; i < n; i++) top = !gone[i] && log_p[i] > top ? log_p[i] : top;
        for (int64_t i = 0; i < n; i++) p[i] = gone[i] || log_p[i] <= never ? 0 : std::exp(log_p[i] - top);
    }

    // Fills y, not yet divided by its sum, for draw number `place` of all; false when nothing is left.
    bool run(uint32_t place) {
        if (largest(p) < 0x1p-30f) fill();
        if (largest(p) == 0) return false;
        const float* weight = p.data();
        float* out = y.data();
        for (int64_t i = 0; i < half; i++) {
            uint32_t a = (uint32_t)i, b = place;
            threefry(key, a, b);
            out[i] = weight[i] / exponential(a);
            out[half + i] = weight[half + i] / exponential(b);
        }
        return true;
    }

    // Of numbers that are not negative: their bits are in the same order, and integers have a vector maximum.
    float largest(const std::vector<float>& x) const {
        int32_t top = 0;
        for (int64_t i = 0; i < 2 * half; i++) top = std::max(top, bits_of(x[i]));
        float value;
        std::memcpy(&value, &top, sizeof value);
        return value;
    }

    int64_t winner() const {
        const int32_t top = bits_of(largest(y));
        int64_t i = 0;
        while (i < n - 1 && bits_of(y[i]) != top) i++;
        return i;
    }

    void remove(int64_t i) {
        gone[i] = true;
        p[i] = 0;
    }
};

// What one pair adds to the gradient of its query: g times the gradient of its score. L2: g is over the distance already.
template <Kind kind>
Vec term(float g, Vec x) {
    if constexpr (kind == L2) return g * x;
    const Vec all = g - Vec{};
    return (Vec)((((Bits)x & INT32_MIN) ^ (Bits)all) & (x != 0));
}

// R queries from b on against table rows first..last: one register of lanes at a time, n of them in use.
template <Kind kind, int R>
inline __attribute__((always_inline))
void add_pair_gradients(const float* q, const float* table, const float* grad, float* dq, float* dtable, int64_t b,
                        int64_t first, int64_t last, int64_t count, int64_t d, int64_t i, int64_t n) {
    constexpr int parts = kind == MODULI ? 2 : 1;
    const int64_t half = d / parts;
    Vec own[R][parts], sum[R][parts];
    for (int r = 0; r < R; r++)
        for (int p = 0; p < parts; p++) {
            own[r][p] = load(q + (b + r) * d + p * half + i, n);
            sum[r][p] = load(dq + (b + r) * d + p * half + i, n);
        }
    for (int64_t e = first; e < last; e++) {
        Vec c[parts], dc[parts];
        for (int p = 0; p < parts; p++) {
            c[p] = load(table + e * d + p * half + i, n);
            dc[p] = load(dtable + e * d + p * half + i, n);
        }
        for (int r = 0; r < R; r++) {
            const float g = grad[(b + r) * count + e];
            if constexpr (kind == MODULI) {
                const Vec re = c[0] - own[r][0], im = c[1] - own[r][1], w = g * inverse_modulus(re, im);
                sum[r][0] += w * re;
                sum[r][1] += w * im;
                dc[0] -= w * re;
                dc[1] -= w * im;
            } else {
                const Vec t = term<kind>(g, c[0] - own[r][0]);
                sum[r][0] += t;
                dc[0] -= t;
            }
        }
        for (int p = 0; p < parts; p++) store(dtable + e * d + p * half + i, dc[p], n);
    }
    for (int r = 0; r < R; r++)
        for (int p = 0; p < parts; p++) store(dq + (b + r) * d + p * half + i, sum[r][p], n);
}

// The table in STRIPES, each with its own sum over its rows for every query, added up in order: for any number of threads
// alike. FEW rows of the table and of its gradient stay in the first cache while the queries pass.
constexpr int64_t STRIPES = 8, FEW = 32;
template <Kind kind>
void pairs_gradient(const float* q, const float* table, const float* grad, float* dq, float* dtable, int64_t rows,
                    int64_t count, int64_t d, int threads) {
    constexpr int R = kind == MODULI ? 2 : 4;
    const int64_t width = kind == MODULI ? d / 2 : d, stripe = (count + STRIPES - 1) / STRIPES;
    std::vector<float> partial(STRIPES * rows * d, 0.0f);
    std::fill_n(dtable, count * d, 0.0f);
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
    for (int64_t s = 0; s < STRIPES; s++) {
        float* sum = partial.data() + s * rows * d;
        const int64_t end = std::min((s + 1) * stripe, count);
        for (int64_t first = s * stripe; first < end; first += FEW) {
            const int64_t last = std::min(first + FEW, end);
            for (int64_t b = 0; b < rows;) {
                int64_t i = 0;
                if (b + R <= rows) {
                    for (; i + LANES <= width; i += LANES)
                        add_pair_gradients<kind, R>(q, table, grad, sum, dtable, b, first, last, count, d, i, LANES);
                    if (i < width)
                        add_pair_gradients<kind, R>(q, table, grad, sum, dtable, b, first, last, count, d, i, width - i);
                    b += R;
                } else {
                    for (; i < width; i += LANES)
                        add_pair_gradients<kind, 1>(q, table, grad, sum, dtable, b, first, last, count, d, i, width - i);
                    b += 1;
                }
            }
        }
    }
    std::fill_n(dq, rows * d, 0.0f);
    for (int64_t s = 0; s < STRIPES; s++)
        for (int64_t i = 0; i < rows * d; i++) dq[i] += partial[s * rows * d + i];
}

// e^x for x <= 0, to a few units in the last place; 0 below -87, and nan stays nan. e^x = 2^n e^r with |r| <= ln 2 / 2.
Vec exponential(Vec x) {
    const Bits n = __builtin_convertvector(x * 1.44269504f - 0.5f, Bits);
    const Vec r = x - __builtin_convertvector(n, Vec) * 0.69314718f;
    Vec y = 1 + r * (1.0f / 7);
    for (int k = 6; k > 0; k--) y = 1 + y * r * (1.0f / k);  // Taylor's sum: what is left out is below 1e-8
    const Vec power = (Vec)((Bits)y + (n << 23));
    return (Vec)((Bits)power & ~(x < -87.0f));
}

// The first place among n weights at which their running sum exceeds `goal`; where rounding ends it before, the last weight
// above zero.
int64_t place(const float* weight, int64_t n, double goal) {
    int64_t last = 0;
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        if (weight[i] > 0) {
            last = i;
            if ((sum += weight[i]) > goal) break;
        }
    return last;
}

// ln x for normal x > 0, to a few units in the last place: x = 2^n m with sqrt(1/2) <= m < sqrt(2), and
// ln m = 2 artanh((m - 1) / (m + 1)).
Vec logarithm(Vec x) {
    const Bits n = ((Bits)x - 0x3f3504f3) >> 23;
    const Vec m = (Vec)((Bits)x - (n << 23)), z = (m - 1) / (m + 1), w = z * z;
    const Vec y = 2 * z * (1 + w * (1.0f / 3 + w * (1.0f / 5 + w * (1.0f / 7 + w * (1.0f / 9)))));
    return y + __builtin_convertvector(n, Vec) * 0.69314718f;
}

// --- Candidates that a relation transforms: scaled (PairRE), of rank one (TransD); and distances of blocks (OTE) ---

// A form is what becomes of one query and one row of the table. `more` is what the relation has for the candidate, a row
// as long as the query; the rows hold q(), more() and c() numbers. `made` and `slope` are memory for c() numbers each.

template <Kind kind>
struct Scaled {  // of a row times `more`
    int64_t d;
    int64_t q() const { return d; }
    int64_t more() const { return d; }
    int64_t c() const { return d; }
    void make(const float* more, const float* c, float* made) const {
        for (int64_t i = 0; i < d; i++) made[i] = c[i] * more[i];
    }
    float score(const float* q, const float* more, const float* c, float* made, float margin) const {
        make(more, c, made);
        return ::score<kind>(total<kind>(q, made, d), margin);
    }
    void back(float g, const float* q, const float* more, const float* c, float* made, float* slope) const {
        make(more, c, made);
        std::fill_n(slope, d, 0.0f);
        add_gradient<kind>(g, made, q, slope, d);
    }
    void to_query(float g, const float* q, const float* more, const float* c, float* made, float* slope, float* dq,
                  float* dmore) const {
        back(g, q, more, c, made, slope);
        add_gradient<kind>(g, q, made, dq, d);
        for (int64_t i = 0; i < d; i++) dmore[i] += slope[i] * c[i];
    }
    void to_table(float g, const float* q, const float* more, const float* c, float* made, float* slope, float* dc) const {
        back(g, q, more, c, made, slope);
        for (int64_t i = 0; i < d; i++) dc[i] += slope[i] * more[i];
    }
};

template <Kind kind>
struct RankOne {  // q = [q | w], row = [c | v]: of the row c + <c, v> w, of d numbers
    int64_t d;
    int64_t q() const { return 2 * d; }
    int64_t more() const { return 0; }
    int64_t c() const { return 2 * d; }
    float make(const float* w, const float* c, float* made) const {
        const float along = total<DOT>(c, c + d, d);
        for (int64_t i = 0; i < d; i++) made[i] = c[i] + along * w[i];
        return along;
    }
    float score(const float* q, const float*, const float* c, float* made, float margin) const {
        make(q + d, c, made);
        return ::score<kind>(total<kind>(q, made, d), margin);
    }
    float back(float g, const float* q, const float* c, float* made, float* slope) const {
        const float along = make(q + d, c, made);
        std::fill_n(slope, d, 0.0f);
        add_gradient<kind>(g, made, q, slope, d);
        return along;
    }
    void to_query(float g, const float* q, const float*, const float* c, float* made, float* slope, float* dq, float*) const {
        const float along = back(g, q, c, made, slope);
        for (int64_t i = 0; i < d; i++) {
            dq[i] -= slope[i];
            dq[d + i] += along * slope[i];
        }
    }
    void to_table(float g, const float* q, const float*, const float* c, float* made, float* slope, float* dc) const {
        back(g, q, c, made, slope);
        const float t = total<DOT>(slope, q + d, d);
        for (int64_t i = 0; i < d; i++) {
            dc[i] += slope[i] + t * c[d + i];
            dc[d + i] += t * c[i];
        }
    }
};

// Sum of the lengths of blocks of `size` numbers; number j of block g stands at j * blocks + g.
// With contexts, q and the row are [x | context of x]: a quarter of 2 B(x - x') + B(context - x') + B(x - context').
template <bool contexts>
struct Blocks {
    int64_t d, size;  // d: of x
    int64_t q() const { return contexts ? 2 * d : d; }
    int64_t more() const { return 0; }
    int64_t c() const { return q(); }
    Vec square(const float* a, const float* b, int64_t g, int64_t blocks) const {
        Vec sum = {};
        for (int64_t j = 0; j < size; j++) {
            const Vec x = load(a + j * blocks + g, blocks - g) - load(b + j * blocks + g, blocks - g);
            sum += x * x;
        }
        return sum;
    }
    float score(const float* q, const float*, const float* c, float*, float margin) const {
        const int64_t blocks = d / size;
        Vec lanes = {};
        for (int64_t g = 0; g < blocks; g += LANES) {
            if constexpr (contexts) {
                lanes += 0.5f * root(square(q, c, g, blocks));
                lanes += 0.25f * (root(square(q + d, c, g, blocks)) + root(square(q, c + d, g, blocks)));
            } else lanes += root(square(q, c, g, blocks));
        }
        float sum = 0;  // lanes without a block hold the root of TINY, which is too small to see
        for (int i = 0; i < LANES; i++) sum += lanes[i];
        return margin - sum;
    }
    void pull(float g, const float* a, const float* b, float* da) const {  // da += gradient of -g B(a - b)
        const int64_t blocks = d / size;
        for (int64_t at = 0; at < blocks; at += LANES) {
            const Vec w = g * inverse_root(square(a, b, at, blocks));
            for (int64_t j = 0; j < size; j++) {
                const int64_t i = j * blocks + at, n = blocks - at;
                store(da + i, load(da + i, n) + w * (load(b + i, n) - load(a + i, n)), n);
            }
        }
    }
    void add(float g, const float* a, const float* b, float* da) const {
        if constexpr (contexts) {
            pull(0.5f * g, a, b, da);
            pull(0.25f * g, a, b + d, da);
            pull(0.25f * g, a + d, b, da + d);
        } else pull(g, a, b, da);
    }
    void to_query(float g, const float* q, const float*, const float* c, float*, float*, float* dq, float*) const {
        add(g, q, c, dq);
    }
    void to_table(float g, const float* q, const float*, const float* c, float*, float*, float* dc) const { add(g, c, q, dc); }
};

template <class Form>
void forward_of(const Form& form, const float* q, const float* more, const float* table, const int64_t* ids, float* out,
             int64_t rows, int64_t k, float margin, int threads) {
    const int64_t d = form.c();
#pragma omp parallel num_threads(threads)
    {
        std::vector<float> made(d);
#pragma omp for schedule(static)
        for (int64_t b = 0; b < rows; b++)
            for (int64_t i = b * k; i < (b + 1) * k; i++) {
                prefetch(table + ids[std::min(i + AHEAD, rows * k - 1)] * d, d);
                out[i] = form.score(q + b * form.q(), more + b * form.more(), table + ids[i] * d, made.data(), margin);
            }
    }
}

template <class Form>
void query_gradient_of(const Form& form, const float* q, const float* more, const float* table, const int64_t* ids,
                    const float* grad, float* dq, float* dmore, int64_t rows, int64_t k, int threads) {
    const int64_t d = form.c();
#pragma omp parallel num_threads(threads)
    {
        std::vector<float> made(d), slope(d);
#pragma omp for schedule(static)
        for (int64_t b = 0; b < rows; b++) {
            std::fill_n(dq + b * form.q(), form.q(), 0.0f);
            if (form.more()) std::fill_n(dmore + b * form.more(), form.more(), 0.0f);
            for (int64_t i = b * k; i < (b + 1) * k; i++) {
                prefetch(table + ids[std::min(i + AHEAD, rows * k - 1)] * d, d);
                form.to_query(grad[i], q + b * form.q(), more + b * form.more(), table + ids[i] * d, made.data(),
                              slope.data(), dq + b * form.q(), dmore + b * form.more());
            }
        }
    }
}

// Groups the positions of `ids` by entity (counting sort), so that one thread writes each row of the result, in order.
template <class Form>
void table_gradient_of(const Form& form, const float* q, const float* more, const float* table, const int64_t* ids,
                    const float* grad, float* dtable, int64_t rows, int64_t k, int64_t n, int threads) {
    const int64_t d = form.c();
    std::vector<int64_t> end(n + 1, 0), position(rows * k);
    for (int64_t i = 0; i < rows * k; i++) end[ids[i] + 1]++;
    for (int64_t e = 0; e < n; e++) end[e + 1] += end[e];
    for (int64_t i = 0; i < rows * k; i++) position[end[ids[i]]++] = i;  // end[e] moves from the start of e to its end
#pragma omp parallel num_threads(threads)
    {
        std::vector<float> made(d), slope(d);
#pragma omp for schedule(dynamic, 128)
        for (int64_t e = 0; e < n; e++) {
            float* out = dtable + e * d;
            std::fill_n(out, d, 0.0f);
            prefetch(table + std::min(e + AHEAD, n - 1) * d, d);
            for (int64_t p = e ? end[e - 1] : 0; p < end[e]; p++) {
                const int64_t b = position[p] / k;
                form.to_table(grad[position[p]], q + b * form.q(), more + b * form.more(), table + e * d, made.data(),
                              slope.data(), out);
            }
        }
    }
}

template <Kind kind>
void tile_of(const RankOne<kind>& form, const float* const q[DOWN], const float* panel, Vec sum[DOWN][ACROSS]) {
    const int64_t d = form.d;
    Vec along[ACROSS] = {};
    for (int64_t i = 0; i < d; i++)
        for (int j = 0; j < ACROSS; j++)
            along[j] += *(const Vec*)(panel + i * PANEL + j * LANES) * *(const Vec*)(panel + (d + i) * PANEL + j * LANES);
    Vec acc[DOWN][ACROSS] = {};
    for (int64_t i = 0; i < d; i++)
        for (int j = 0; j < ACROSS; j++) {
            const Vec c = *(const Vec*)(panel + i * PANEL + j * LANES);
            for (int r = 0; r < DOWN; r++) {
                const Vec x = q[r][i] - (c + along[j] * q[r][d + i]);
                acc[r][j] += kind == L1 ? magnitude(x) : x * x;
            }
        }
    for (int r = 0; r < DOWN; r++)
        for (int j = 0; j < ACROSS; j++) sum[r][j] = acc[r][j];
}
template <bool contexts>
void tile_of(const Blocks<contexts>& form, const float* const q[DOWN], const float* panel, Vec sum[DOWN][ACROSS]) {
    const int64_t d = form.d, size = form.size, blocks = d / size;
    for (int r = 0; r < DOWN; r++)
        for (int j = 0; j < ACROSS; j++) {
            Vec acc = {};
            for (int64_t g = 0; g < blocks; g++) {
                Vec own = {}, kept = {}, other = {};
                for (int64_t k = 0; k < size; k++) {
                    const int64_t i = k * blocks + g;
                    const Vec c = *(const Vec*)(panel + i * PANEL + j * LANES), x = q[r][i] - c;
                    own += x * x;
                    if constexpr (contexts) {
                        const Vec y = q[r][d + i] - c, z = q[r][i] - *(const Vec*)(panel + (d + i) * PANEL + j * LANES);
                        kept += y * y;
                        other += z * z;
                    }
                }
                if constexpr (contexts) acc += 0.5f * root(own) + 0.25f * (root(kept) + root(other));
                else acc += root(own);
            }
            sum[r][j] = acc;
        }
}

template <Kind kind> float finish(const RankOne<kind>&, float sum, float margin) { return score<kind>(sum, margin); }
template <bool contexts> float finish(const Blocks<contexts>&, float sum, float margin) { return margin - sum; }

template <class Form>
void pairs_of(const Form& form, const float* q, const float* table, float* out, int64_t rows, int64_t n,
              float margin, int threads) {
    const int64_t d = form.c();
#pragma omp parallel num_threads(threads)
    {
        Panel turned(d);
        const float* panel = turned.at;
#pragma omp for schedule(dynamic, 1)
        for (int64_t first = 0; first < n; first += PANEL) {
            const int64_t count = std::min<int64_t>(PANEL, n - first);
            turned.fill(table + first * d, count, d);
            for (int64_t b = 0; b < rows; b += DOWN) {
                const float* left[DOWN];
                for (int r = 0; r < DOWN; r++)  // past the last query: score it again, and throw that away
                    left[r] = q + std::min(b + r, rows - 1) * form.q();
                alignas(64) Vec sum[DOWN][ACROSS];
                tile_of(form, left, panel, sum);
                for (int64_t r = 0; r < std::min<int64_t>(DOWN, rows - b); r++)
                    for (int64_t e = 0; e < count; e++)
                        out[(b + r) * n + first + e] = finish(form, sum[r][e / LANES][e % LANES], margin);
            }
        }
    }
}

// call(form) with the form of a code; d: numbers in a row of the table.
template <class Call>
void by_form(int kind, int64_t d, int64_t size, Call call) {
    switch (kind) {
        case DOT: return call(Scaled<DOT>{d});
        case L1: return call(Scaled<L1>{d});
        case L2: return call(Scaled<L2>{d});
        case MODULI: return call(Scaled<MODULI>{d});
        case 4: return call(RankOne<L1>{d / 2});
        case 5: return call(RankOne<L2>{d / 2});
        case 6: return call(Blocks<false>{d, size});
        default: return call(Blocks<true>{d / 2, size});
    }
}

bool within(const int64_t* ids, int64_t count, int64_t n) {
    bool good = true;
    for (int64_t i = 0; i < count; i++) good &= (uint64_t)ids[i] < (uint64_t)n;
    return good;
}

}  // namespace

#define BY_KIND(kind, call)                                     \
    switch (kind) {                                             \
        case DOT: { constexpr Kind K = DOT; call; break; }      \
        case L1: { constexpr Kind K = L1; call; break; }        \
        case L2: { constexpr Kind K = L2; call; break; }        \
        default: { constexpr Kind K = MODULI; call; }           \
    }

extern "C" {

// q [B, D], table [N, D], ids [B, K] -> out [B, K]. Returns 0, or 1 when an id is not in 0..N-1 (nothing is written).
int gathered(int kind, const float* q, const float* table, const int64_t* ids, float* out, int64_t rows, int64_t k,
             int64_t n, int64_t d, float margin, int threads) {
    if (!within(ids, rows * k, n)) return 1;
    const int64_t block = std::min(rows, BLOCK_BYTES / (d * (int64_t)sizeof(float)));  // of queries
    if (block * k > n) BY_KIND(kind, forward_by_entity<K>(q, table, ids, out, rows, k, n, d, margin, threads))
    else BY_KIND(kind, forward<K>(q, table, ids, out, rows, k, d, margin, threads))
    return 0;
}

// grad [B, K] -> dq [B, D] and dtable [N, D]; a null pointer leaves one out. The ids were checked by `gathered`.
void gathered_backward(int kind, const float* q, const float* table, const int64_t* ids, const float* grad, float* dq,
                       float* dtable, int64_t rows, int64_t k, int64_t n, int64_t d, int threads) {
    if (dq) BY_KIND(kind, query_gradient<K>(q, table, ids, grad, dq, rows, k, d, threads))
    if (dtable) BY_KIND(kind, table_gradient<K>(q, table, ids, grad, dtable, rows, k, n, d, threads))
}

// grad [B, K] -> out [B, K, D], in the rows that ids name. The ids were checked by `gathered`.
void gathered_each(int kind, const float* q, const float* table, const int64_t* ids, const float* grad, float* out,
                   int64_t rows, int64_t k, int64_t d, int threads) {
    BY_KIND(kind, each_gradient<K>(q, table, ids, grad, out, rows, k, d, threads))
}

// table[ids[i]] += rows[i] for rows [M, D]. A thread owns a stripe of columns, so the order of the sum is that of ids.
void add_rows(const float* rows, const int64_t* ids, float* table, int64_t count, int64_t d, int threads) {
    constexpr int64_t STRIPE = 64;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t first = 0; first < d; first += STRIPE) {
        const int64_t width = std::min(STRIPE, d - first);
        for (int64_t i = 0; i < count; i++) {
            float* out = table + ids[i] * d + first;
            const float* row = rows + i * d + first;
            for (int64_t j = 0; j < width; j++) out[j] += row[j];
        }
    }
}

// q [Q, D], table [N, D], scale [Q, D] (a factor on the table's rows) or null -> out [Q, N].
void all_pairs(int kind, const float* q, const float* table, const float* scale, float* out, int64_t rows, int64_t n,
               int64_t d, float margin, int threads) {
    if (scale) BY_KIND(kind, (pairs<K, true>(q, table, scale, out, rows, n, d, margin, threads)))
    else BY_KIND(kind, (pairs<K, false>(q, table, scale, out, rows, n, d, margin, threads)))
}

// log_p and known [B, N] -> index and free [B, K]: draws without replacement of what is not known; index 0 where nothing is
// left. `Race` says how.
void race(const float* log_p, const bool* known, int64_t seed, int64_t* index, bool* free, int64_t rows, int64_t k, int64_t n,
          float never, int threads) {
#pragma omp parallel num_threads(threads)
    {
        Race race(n, (uint64_t)seed, never);
#pragma omp for schedule(static)
        for (int64_t b = 0; b < rows; b++) {
            race.start(log_p + b * n, known + b * n);
            for (int64_t i = b * k; i < (b + 1) * k; i++) {
                free[i] = race.run((uint32_t)i);
                index[i] = free[i] ? race.winner() : 0;
                if (free[i]) race.remove(index[i]);
            }
        }
    }
}

// The same races again, from row `first` on: out [rows, N] = sum over the draws of y (pull - sum of y pull), pull [rows, K, N].
void race_backward(const float* log_p, const bool* known, int64_t seed, const int64_t* index, const float* pull, float* out,
                   int64_t first, int64_t rows, int64_t k, int64_t n, float never, int threads) {
#pragma omp parallel num_threads(threads)
    {
        Race race(n, (uint64_t)seed, never);
        const float* y = race.y.data();
#pragma omp for schedule(static)
        for (int64_t b = 0; b < rows; b++) {
            race.start(log_p + (first + b) * n, known + (first + b) * n);
            float* to = out + b * n;
            std::fill_n(to, n, 0.0f);
            for (int64_t i = 0; i < k; i++) {
                const int64_t place = (first + b) * k + i;
                if (!race.run((uint32_t)place)) break;
                const float* force = pull + (b * k + i) * n;
                float sum = 0, mean = 0;
                for (int64_t c = 0; c < n; c++) {
                    sum += y[c];
                    mean += y[c] * force[c];
                }
                mean /= sum;
                for (int64_t c = 0; c < n; c++) to[c] += y[c] / sum * (force[c] - mean);
                race.remove(index[place]);
            }
        }
    }
}

// grad [Q, N] -> dq [Q, D] and dtable [N, D] of `all_pairs` without a scale, for the distances. For L2, grad comes divided
// by the distances.
void all_pairs_backward(int kind, const float* q, const float* table, const float* grad, float* dq, float* dtable,
                        int64_t rows, int64_t n, int64_t d, int threads) {
    if (kind == L1) pairs_gradient<L1>(q, table, grad, dq, dtable, rows, n, d, threads);
    else if (kind == L2) pairs_gradient<L2>(q, table, grad, dq, dtable, rows, n, d, threads);
    else pairs_gradient<MODULI>(q, table, grad, dq, dtable, rows, n, d, threads);
}

// out [Q, N] = exp(scores + bias - top), top [Q] the largest of each row and sum [Q] the row's sum; bias [N] or null. Of row
// i, count[i] entities, listed from start[i] in `left_out`, get 0 and enter neither; but keep[i] does, and without
// keep (null) all do where all are listed. out may be scores. u [Q, K] in [0, 1), or null, picks [Q, K] entities with chances out / sum.
void exponentials(const float* scores, const float* bias, const int64_t* start, const int64_t* count,
                  const int64_t* left_out, const int64_t* keep, const double* u, float* out, float* top, float* sum,
                  int64_t* picked, int64_t rows, int64_t n, int64_t k, int threads) {
    constexpr int64_t BLOCK = 128;  // whose sums lead a draw to its place
    const int64_t blocks = (n + BLOCK - 1) / BLOCK;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t b = 0; b < rows; b++) {
        const float* s = scores + b * n;
        float* e = out + b * n;
        for (int64_t i = 0; i < n; i++) e[i] = bias ? s[i] + bias[i] : s[i];
        const float own = keep ? e[keep[b]] : 0;
        if (keep || count[b] < n)
            for (int64_t i = start[b]; i < start[b] + count[b]; i++) e[left_out[i]] = -INFINITY;
        if (keep) e[keep[b]] = own;
        Vec highest = Vec{} - INFINITY;
        float most = -INFINITY;
        int64_t at = 0;
        for (; at + LANES <= n; at += LANES) {
            const Vec x = load(e + at, LANES);
            highest = x > highest ? x : highest;
        }
        for (int i = 0; i < LANES; i++) most = std::max(most, highest[i]);
        for (; at < n; at++) most = std::max(most, e[at]);
        std::vector<double> before(blocks + 1, 0.0);
        for (int64_t block = 0; block < blocks; block++) {
            Vec lanes = {};
            const int64_t end = std::min(n, (block + 1) * BLOCK);
            int64_t i = block * BLOCK;
            for (; i + LANES <= end; i += LANES) {
                const Vec x = exponential(load(e + i, LANES) - most);
                store(e + i, x, LANES);
                lanes += x;
            }
            if (i < end) {
                store(e + i, exponential(load(e + i, end - i) - most), end - i);
                lanes += load(e + i, end - i);
            }
            double total = 0;
            for (int i = 0; i < LANES; i++) total += lanes[i];
            before[block + 1] = before[block] + total;
        }
        top[b] = most;
        sum[b] = before[blocks];
        for (int64_t i = b * k; u && i < (b + 1) * k; i++) {
            const double goal = u[i] * before[blocks];
            const int64_t block = std::upper_bound(before.begin() + 1, before.end() - 1, goal) - before.begin() - 1;
            const int64_t first = block * BLOCK;
            picked[i] = first + place(e + first, std::min(BLOCK, n - first), goal - before[block]);
        }
    }
}

// ids [B, M], score [B, M], u [B, M] in [0, 1) -> kept [B, K]: per row, in their order, the ids of the K largest
// score - tau log(-log u), each entity once where `once` says so and K others are there. n is above every id.
void keep_largest(const int64_t* ids, const float* score, const float* u, int32_t* kept, int64_t rows, int64_t m, int64_t k,
                  int64_t n, float tau, int once, int threads) {
#pragma omp parallel num_threads(threads)
    {
        std::vector<int64_t> seen(once ? n : 0, -1);  // the last row that an entity stood in
        std::vector<float> value(m + LANES, -INFINITY);
#pragma omp for schedule(static)
        for (int64_t b = 0; b < rows; b++) {
            const int64_t* id = ids + b * m;
            for (int64_t i = 0; i < m; i += LANES) {
                Vec x = load(score + b * m + i, m - i);
                if (tau > 0) {  // u is moved off 0 and 1, by half of its own step
                    const Vec inner = load(u + b * m + i, m - i) * (1 - 0x1p-24f) + 0x1p-25f;
                    x -= tau * logarithm(-logarithm(inner));
                }
                store(value.data() + i, x, m - i);
            }
            for (int64_t i = 0; once && i < m; i++) {
                if (seen[id[i]] == b) value[i] = -INFINITY;
                seen[id[i]] = b;
            }
            int64_t found = 0, spare = 0;
            std::vector<uint8_t> chosen(m);
            for (int64_t i = 0; i < m; i++) {
                Bits above = {};
                for (int64_t j = 0; j < m; j += LANES) above -= load(value.data() + j, LANES) > value[i];
                int64_t ahead = 0;
                for (int j = 0; j < LANES; j++) ahead += above[j];
                chosen[i] = ahead < k && value[i] > -INFINITY && found < k;
                found += chosen[i];
            }
            for (int64_t i = 0; i < m && found < k; i++)
                if (!chosen[i]) chosen[i] = 1, found++;
            for (int64_t i = 0; i < m; i++)
                if (chosen[i]) kept[b * k + spare++] = (int32_t)id[i];
        }
    }
}

// rank [total] -> passed [total]: how many of values [all] from first[key] to the next key's first, which ascend, are at
// most key * stride + rank; `each` ranks in turn share a key. Returns 0, or 1 when a key is not in 0..keys-1 (nothing is written).
int passed(const int64_t* rank, const int64_t* key, const int64_t* values, const int64_t* first, int64_t* passed,
           int64_t total, int64_t each, int64_t keys, int64_t all, int64_t stride, int threads) {
    if (!within(key, total / each, keys)) return 1;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < total; i++) {
        const int64_t of = key[i / each], *begin = values + first[of], *end = values + (of + 1 < keys ? first[of + 1] : all);
        passed[i] = std::upper_bound(begin, end, of * stride + rank[i]) - begin;
    }
    return 0;
}

// scores [Q, N], row [T], answer [T] -> how many of scores[row[t]] are above, and how many equal, scores[row[t], answer[t]].
// Returns 0; 1 when a row or an answer is out of range; 2 when a score that was read is not finite.
int rank_counts(const float* scores, const int64_t* row, const int64_t* answer, int64_t* greater, int64_t* equal,
                int64_t rows, int64_t n, int64_t count, int threads) {
    if (!within(row, count, rows) || !within(answer, count, n)) return 1;
    int infinite = 0;
#pragma omp parallel for num_threads(threads) schedule(static) reduction(| : infinite)
    for (int64_t t = 0; t < count; t++) {
        const float* s = scores + row[t] * n;
        const float own = s[answer[t]];
        int32_t above = 0, same = 0, bad = 0;
        for (int64_t e = 0; e < n; e++) {
            above += s[e] > own;
            same += s[e] == own;
            bad |= !(std::fabs(s[e]) <= FLT_MAX);
        }
        greater[t] = above;
        equal[t] = same;
        infinite |= bad;
    }
    return infinite ? 2 : 0;
}

// On one thread: it stands between matrix products whose threads, of another pool, still spin.
// hidden [n, H] becomes relu(hidden + base + time + sd bias), and factor [n] one over the standard deviation of its rows.
// sd [n] is that of [x; p; c] as long as three x, given the sums over p (*time_sum), over c (sum [n]), and of squares.
void hidden_layer(float* hidden, const float* base, const float* time, const float* bias, const float* x, const float* sum,
                  const float* square, const float* time_sum, const float* time_square, float* factor, int64_t n, int64_t h,
                  int64_t d, float eps) {
    for (int64_t i = 0; i < n; i++) {
        const float *row = x + i * d, *before = base + i * h;
        float total = 0, squares = 0;
        for (int64_t j = 0; j < d; j++) {
            total += row[j];
            squares += row[j] * row[j];
        }
        const float mean = (total + *time_sum + sum[i]) / (3 * d);
        const float variance = (squares + *time_square + square[i]) / (3 * d) - mean * mean + eps, sd = std::sqrt(variance);
        float* out = hidden + i * h;
        total = squares = 0;
        for (int64_t j = 0; j < h; j++) {
            const float value = out[j] + before[j] + time[j] + sd * bias[j];
            out[j] = value < 0 ? 0 : value;  // nan stays nan
            total += out[j];
            squares += out[j] * out[j];
        }
        const float middle = total / h;
        factor[i] = 1 / std::sqrt(squares / h - middle * middle + eps * variance);
    }
}

// --- The forms: kinds 0 to 3 of Kind with a scale, then rank one with L1 and L2, blocks, and blocks with contexts ---

// q [B, D], scale [B, D] for the first four kinds, table [N, D], ids [B, K] -> out [B, K].
// Returns 0, or 1 when an id is not in 0..N-1 (nothing is written).
int formed(int kind, int64_t size, const float* q, const float* scale, const float* table, const int64_t* ids, float* out,
           int64_t rows, int64_t k, int64_t n, int64_t d, float margin, int threads) {
    if (!within(ids, rows * k, n)) return 1;
    by_form(kind, d, size, [&](auto form) { forward_of(form, q, scale, table, ids, out, rows, k, margin, threads); });
    return 0;
}

// grad [B, K] -> dq and dscale [B, D], dtable [N, D]; a null pointer leaves dq (with dscale) or dtable out. The ids were
// checked by `formed`.
void formed_backward(int kind, int64_t size, const float* q, const float* scale, const float* table, const int64_t* ids,
                     const float* grad, float* dq, float* dscale, float* dtable, int64_t rows, int64_t k, int64_t n,
                     int64_t d, int threads) {
    by_form(kind, d, size, [&](auto form) {
        if (dq) query_gradient_of(form, q, scale, table, ids, grad, dq, dscale, rows, k, threads);
        if (dtable) table_gradient_of(form, q, scale, table, ids, grad, dtable, rows, k, n, threads);
    });
}

// q [Q, D], table [N, D] -> out [Q, N], of the forms without a scale.
void formed_pairs(int kind, int64_t size, const float* q, const float* table, float* out, int64_t rows, int64_t n, int64_t d,
                  float margin, int threads) {
    switch (kind) {
        case 4: return pairs_of(RankOne<L1>{d / 2}, q, table, out, rows, n, margin, threads);
        case 5: return pairs_of(RankOne<L2>{d / 2}, q, table, out, rows, n, margin, threads);
        case 6: return pairs_of(Blocks<false>{d, size}, q, table, out, rows, n, margin, threads);
        default: return pairs_of(Blocks<true>{d / 2, size}, q, table, out, rows, n, margin, threads);
    }
}
}
