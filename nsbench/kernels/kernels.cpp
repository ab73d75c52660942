// Scores of query vectors against rows of an entity table, on a CPU, without ever building [B, K, D] or [Q, N, D]; and what
// stands between the matrix products of DHNS's chain (nsbench.samplers.parts.denoiser).
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
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace {

constexpr int AHEAD = 2;  // how many rows before its use a row is asked for

// The order of KINDS in native.py. moduli: [real half | imaginary half]; rank one and blocks: see their forms below.
enum Kind { DOT, L1, L2, MODULI, RANK_ONE_L1, RANK_ONE_L2, BLOCKS, CONTEXTS };

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
// With AVX-512: an approximation to 14 bits and one Newton step, in half the time of a square root and a division.
constexpr float TINY = 1e-30f;
Vec inverse_root(Vec x) {
    x += TINY;
#if defined(__AVX512F__)
    const Vec y = _mm512_rsqrt14_ps(x);
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

// out += g * (gradient of score(a, b) with respect to a). These kinds are symmetric: swap a and b for the other one.
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

// A form is what becomes of one query and one row of the table. `more` is what the relation has for the candidate, a row
// as long as the query; the rows hold q(), more() and c() numbers. `made` and `slope` are memory for c() numbers each.

template <Kind kind>
struct Plain {  // the kinds above, of a row as it is
    int64_t d;
    int64_t q() const { return d; }
    int64_t more() const { return 0; }
    int64_t c() const { return d; }
    float score(const float* q, const float*, const float* c, float*, float margin) const {
        return ::score<kind>(total<kind>(q, c, d), margin);
    }
    void to_query(float g, const float* q, const float*, const float* c, float*, float*, float* dq, float*) const {
        add_gradient<kind>(g, q, c, dq, d);
    }
    void to_table(float g, const float* q, const float*, const float* c, float*, float*, float* dc) const {
        add_gradient<kind>(g, c, q, dc, d);
    }
};

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

// Asks for a row of the table a few rows before it is read: where ids lead, the processor cannot guess.
void prefetch(const float* row, int64_t d) {
    for (int64_t i = 0; i < d; i += 16) __builtin_prefetch(row + i);
}

template <class Form>
void forward(const Form& form, const float* q, const float* more, const float* table, const int64_t* ids, float* out,
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
void query_gradient(const Form& form, const float* q, const float* more, const float* table, const int64_t* ids,
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
void table_gradient(const Form& form, const float* q, const float* more, const float* table, const int64_t* ids,
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

// A tile is DOWN queries against PANEL table rows; its sums fill half of the vector registers.
constexpr int DOWN = 4, ACROSS = LANES == 16 ? 4 : 2, PANEL = LANES * ACROSS;

// One tile; `panel` holds PANEL table rows as [c(), PANEL], so a lane is an entity and no sum crosses lanes.
using Tile = Vec[DOWN][ACROSS];
using Rows = const float* const[DOWN];

template <Kind kind, bool scaled>
void tile(Rows q, Rows scale, const float* panel, Tile sum, int64_t d) {
    constexpr int parts = kind == MODULI ? 2 : 1;
    const int64_t width = d / parts;
    Tile acc = {};
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

template <Kind kind>
void tile_of(const Plain<kind>& form, Rows q, Rows more, const float* panel, Tile sum) {
    tile<kind, false>(q, more, panel, sum, form.d);
}
template <Kind kind>
void tile_of(const Scaled<kind>& form, Rows q, Rows more, const float* panel, Tile sum) {
    tile<kind, true>(q, more, panel, sum, form.d);
}
template <Kind kind>
void tile_of(const RankOne<kind>& form, Rows q, Rows, const float* panel, Tile sum) {
    const int64_t d = form.d;
    Vec along[ACROSS] = {};
    for (int64_t i = 0; i < d; i++)
        for (int j = 0; j < ACROSS; j++)
            along[j] += *(const Vec*)(panel + i * PANEL + j * LANES) * *(const Vec*)(panel + (d + i) * PANEL + j * LANES);
    Tile acc = {};
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
void tile_of(const Blocks<contexts>& form, Rows q, Rows, const float* panel, Tile sum) {
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

template <Kind kind> float finish(const Plain<kind>&, float sum, float margin) { return score<kind>(sum, margin); }
template <Kind kind> float finish(const Scaled<kind>&, float sum, float margin) { return score<kind>(sum, margin); }
template <Kind kind> float finish(const RankOne<kind>&, float sum, float margin) { return score<kind>(sum, margin); }
template <bool contexts> float finish(const Blocks<contexts>&, float sum, float margin) { return margin - sum; }

template <class Form>
void pairs(const Form& form, const float* q, const float* more, const float* table, float* out, int64_t rows, int64_t n,
           float margin, int threads) {
    const int64_t d = form.c();
#pragma omp parallel num_threads(threads)
    {
        std::vector<float> memory(d * PANEL + LANES, 0.0f);
        float* panel = memory.data();
        while ((uintptr_t)panel % sizeof(Vec)) panel++;
#pragma omp for schedule(dynamic, 1)
        for (int64_t first = 0; first < n; first += PANEL) {
            const int64_t count = std::min<int64_t>(PANEL, n - first);
            for (int64_t e = 0; e < count; e++)
                for (int64_t i = 0; i < d; i++) panel[i * PANEL + e] = table[(first + e) * d + i];
            for (int64_t b = 0; b < rows; b += DOWN) {
                const float *left[DOWN], *factor[DOWN];
                for (int r = 0; r < DOWN; r++) {  // past the last query: score it again, and throw that away
                    left[r] = q + std::min(b + r, rows - 1) * form.q();
                    factor[r] = more + std::min(b + r, rows - 1) * form.more();
                }
                alignas(64) Tile sum;
                tile_of(form, left, factor, panel, sum);
                for (int64_t r = 0; r < std::min<int64_t>(DOWN, rows - b); r++)
                    for (int64_t e = 0; e < count; e++)
                        out[(b + r) * n + first + e] = finish(form, sum[r][e / LANES][e % LANES], margin);
            }
        }
    }
}

bool within(const int64_t* ids, int64_t count, int64_t n) {
    bool good = true;
    for (int64_t i = 0; i < count; i++) good &= (uint64_t)ids[i] < (uint64_t)n;
    return good;
}

}  // namespace

// call(form) with the form of a kind; d: numbers in a row of the table; scaled: there is a factor for the rows.
template <class Call>
void by_form(int kind, bool scaled, int64_t d, int64_t size, Call call) {
    switch (kind) {
        case DOT: return scaled ? call(Scaled<DOT>{d}) : call(Plain<DOT>{d});
        case L1: return scaled ? call(Scaled<L1>{d}) : call(Plain<L1>{d});
        case L2: return scaled ? call(Scaled<L2>{d}) : call(Plain<L2>{d});
        case MODULI: return scaled ? call(Scaled<MODULI>{d}) : call(Plain<MODULI>{d});
        case RANK_ONE_L1: return call(RankOne<L1>{d / 2});
        case RANK_ONE_L2: return call(RankOne<L2>{d / 2});
        case BLOCKS: return call(Blocks<false>{d, size});
        default: return call(Blocks<true>{d / 2, size});
    }
}

extern "C" {

// q [B, D], scale [B, D] (a factor on the table's rows) or null, table [N, D], ids [B, K] -> out [B, K].
// Returns 0, or 1 when an id is not in 0..N-1 (nothing is written).
int gathered(int kind, int64_t size, const float* q, const float* scale, const float* table, const int64_t* ids, float* out,
             int64_t rows, int64_t k, int64_t n, int64_t d, float margin, int threads) {
    if (!within(ids, rows * k, n)) return 1;
    by_form(kind, scale, d, size, [&](auto form) { forward(form, q, scale, table, ids, out, rows, k, margin, threads); });
    return 0;
}

// grad [B, K] -> dq and dscale [B, D], dtable [N, D]; dq comes with dscale where there is a scale, and a null pointer
// leaves dq or dtable out. The ids were checked by `gathered`.
void gathered_backward(int kind, int64_t size, const float* q, const float* scale, const float* table, const int64_t* ids,
                       const float* grad, float* dq, float* dscale, float* dtable, int64_t rows, int64_t k, int64_t n,
                       int64_t d, int threads) {
    by_form(kind, scale, d, size, [&](auto form) {
        if (dq) query_gradient(form, q, scale, table, ids, grad, dq, dscale, rows, k, threads);
        if (dtable) table_gradient(form, q, scale, table, ids, grad, dtable, rows, k, n, threads);
    });
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

// q [Q, D], scale [Q, D] (a factor on the table's rows) or null, table [N, D] -> out [Q, N].
void all_pairs(int kind, int64_t size, const float* q, const float* scale, const float* table, float* out, int64_t rows,
               int64_t n, int64_t d, float margin, int threads) {
    by_form(kind, scale, d, size, [&](auto form) { pairs(form, q, scale, table, out, rows, n, margin, threads); });
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
}
