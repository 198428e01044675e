/* A few rows through a decoder on a CPU: the weights are read, each once, and everything else is kept
 * so small that it does not show. Few are eight, or 64 where the processor multiplies what it adds up
 * in wider numbers (bfloat16 and bytes, in tiles or in vectors); there a prompt's rows are taken too.
 *
 * `pharos_linear` multiplies rows with one matrix, `pharos_blocks` takes few of them through the
 * blocks of a model of the Llama family, attention over paged keys included, and `pharos_norm`,
 * `pharos_silu_and_mul`, `pharos_swiglu` and `pharos_attend` do what stands between the products of a
 * prompt's; `pharos_choose` finds the next token. A block is one parallel region: the threads share
 * the outputs of each matrix and meet between the stages. What is small (a norm, the rounding of a row
 * to bytes) each thread does for itself; that costs less than another meeting.
 *
 * Each output is computed by one thread and in one order, so a row's numbers depend neither on the
 * number of threads nor on the rows beside it. So that it is one order, no compiler may choose which
 * products are added without a rounding between (`-ffp-contract=off`): `times_plus` says it. Numbers
 * are float while they are at work, and are rounded to the model's type wherever torch's layers would.
 *
 * Vectors are GNU C's (gcc and clang): sixteen lanes, which the compiler cuts to what there is.
 *
 * Shapes: N rows, I inputs, O outputs, D hidden width, H query heads, G key-value heads (R = H / G
 * queries share one), K head width, F inner width, P blocks of C tokens (S = P·C), E rotated pairs.
 */

#include <math.h>
#include <omp.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#if defined(__linux__)
#include <sys/mman.h>
#endif

#if defined(__AMX_BF16__) && defined(__AMX_INT8__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#define HAS_TILES 1
#else
#define HAS_TILES 0
#endif

/* Whether there are vectors of sums of products: two of bfloat16 in each lane, four of bytes. */
#if defined(__AVX512BF16__)
#define HAS_BF16_DOTS 1
#else
#define HAS_BF16_DOTS 0
#endif
#if defined(__AVX512VNNI__)
#define HAS_INT8_DOTS 1
#else
#define HAS_INT8_DOTS 0
#endif

#define LANES 16
#define INLINE static inline __attribute__((always_inline))

typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef int32_t Ints __attribute__((vector_size(4 * LANES)));
typedef uint32_t Words __attribute__((vector_size(4 * LANES)));

enum { FLOAT32, BFLOAT16 };

/* How a matrix [O, I] lies in memory. Panels are how oneDNN packs: the weights of several outputs
 * side by side, for each pair (bfloat16) or quadruple (bytes) of inputs. */
enum { BF16_PANELS, INT8_PANELS, INT8_ROWS };

typedef struct {
    const void *weight;
    const float *scale_O;   /* of bytes */
    const int32_t *sums_O;  /* INT8_PANELS: of each output's weights */
    const float *bias_O;    /* or NULL */
    int32_t layout, num_outputs, num_inputs;
    int32_t padded_inputs, panel_outputs;  /* of a panel */
} Matrix;

typedef struct {
    Matrix query, key, value, out, gate, up, down;
    const float *attention_norm_D, *mlp_norm_D;
    const float *query_norm_K, *key_norm_K;  /* or NULL */
    float attention_eps, mlp_eps, head_eps, scale;
    int32_t num_heads, num_groups, head_dim;
    int32_t look_back;  /* how many tokens before itself a token sees; -1: all */
} Block;

/* What all blocks are told about the rows of a pass. `tables` has the blocks of their sequences one
 * after another; those of row n begin at `table_N[n]`. */
typedef struct {
    const int64_t *positions_N, *slots_N, *table_N, *tables;
    const void *cos_NE, *sin_NE;
    int64_t num_slots;
    int32_t num_rows, num_pairs, block_size, dtype, num_threads;
} Pass;

/* The queries of T tokens, the last of S, and the keys and values of all, in bfloat16. Those of a
 * group lie `group_stride` numbers from those of the next. `packed` has 64 words for each number of a
 * key, for each group and begun panel of 64 keys. */
typedef struct {
    const uint16_t *q_THK, *k_GSK, *v_GSK;
    uint16_t *out_THK;
    uint32_t *packed;
    int64_t num_tokens, num_keys, group_stride;
    int64_t look_back;  /* how many tokens before itself a token sees; -1: all */
    float scale;
    int32_t num_heads, num_groups, head_dim, num_threads;
} Prompt;

/* ---- memory ---- */

#define AHEAD 4096
#define LARGEST_AHEAD (512 << 10) /* of a panel that is asked for as a whole */

/* Asking for what is a page further brings a fifth more a second: what the processor asks for by
 * itself ends where a page does. It goes into the second cache (2) or, on the processors with tiles
 * that this was measured on, the first one (3). */
INLINE void fetch(const void *weights) { __builtin_prefetch(weights, 0, HAS_TILES ? 3 : 2); }

INLINE void fetch_ahead(const void *weights) { fetch((const char *)weights + AHEAD); }

/* Weights are read one page after another, and looking a page up takes its time: there are large ones
 * for who asks. It is asked for those now (Linux 6.1) and later ones, and no matter if in vain. */
void pharos_in_large_pages(const void *weights, int64_t bytes)
{
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    enum { LARGE = 2 << 20, COLLAPSE = 25 };
    uintptr_t first = ((uintptr_t)weights + LARGE - 1) / LARGE * LARGE;
    uintptr_t stop = ((uintptr_t)weights + bytes) / LARGE * LARGE;
    if (stop > first && madvise((void *)first, stop - first, MADV_HUGEPAGE) == 0)
        madvise((void *)first, stop - first, COLLAPSE);
#endif
}

/* ---- numbers ---- */

INLINE int64_t at_most(int64_t count, int64_t most) { return count < most ? count : most; }

INLINE float from_bf16(uint16_t bits)
{
    uint32_t word = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &word, 4);
    return value;
}

INLINE uint16_t to_bf16(float value)
{
    uint32_t word;
    memcpy(&word, &value, 4);
    uint32_t rounded = (word + 0x7fff + ((word >> 16) & 1)) >> 16;
    return value != value ? 0x7fc0 : (uint16_t)rounded; /* rounding could make a NaN a number */
}

INLINE float rounded(float value, int dtype)
{
    return dtype == BFLOAT16 ? from_bf16(to_bf16(value)) : value;
}

INLINE const void *at(const void *numbers, int dtype, int64_t index)
{
    return (const char *)numbers + index * (dtype == BFLOAT16 ? 2 : 4);
}

INLINE void widen(const void *from, int dtype, int64_t count, float *to)
{
    if (dtype == FLOAT32) {
        memcpy(to, from, 4 * count);
        return;
    }
    const uint16_t *bits = from;
#pragma omp simd
    for (int64_t i = 0; i < count; i++)
        to[i] = from_bf16(bits[i]);
}

INLINE void narrow(const float *from, int64_t count, int dtype, void *to)
{
    if (dtype == FLOAT32) {
        memcpy(to, from, 4 * count);
        return;
    }
    uint16_t *bits = to;
#pragma omp simd
    for (int64_t i = 0; i < count; i++)
        bits[i] = to_bf16(from[i]);
}

INLINE Floats load(const float *from)
{
    Floats values;
    memcpy(&values, from, sizeof values);
    return values;
}

INLINE void store(Floats values, float *to) { memcpy(to, &values, sizeof values); }

INLINE Floats splat(float value) { return value - (Floats){}; }

/* a · b + c, rounded once where the processor does that. */
#if defined(__AVX512F__)
#define FUSES 1
typedef __m512 Part;
INLINE Part fused_part(Part a, Part b, Part c) { return _mm512_fmadd_ps(a, b, c); }
#elif defined(__AVX2__) && defined(__FMA__)
#define FUSES 1
typedef __m256 Part;
INLINE Part fused_part(Part a, Part b, Part c) { return _mm256_fmadd_ps(a, b, c); }
#elif defined(__aarch64__)
#define FUSES 1
typedef float32x4_t Part;
INLINE Part fused_part(Part a, Part b, Part c) { return vfmaq_f32(c, a, b); }
#else
#define FUSES 0
typedef Floats Part;
INLINE Part fused_part(Part a, Part b, Part c) { return a * b + c; }
#endif

INLINE Floats times_plus(Floats a, Floats b, Floats c)
{
    union {
        Floats all;
        Part parts[sizeof(Floats) / sizeof(Part)];
    } one = {a}, two = {b}, sum = {c};
    for (size_t i = 0; i < sizeof(Floats) / sizeof(Part); i++)
        sum.parts[i] = fused_part(one.parts[i], two.parts[i], sum.parts[i]);
    return sum.all;
}

INLINE float sum_of(Floats values)
{
#if defined(__AVX512F__)
    return _mm512_reduce_add_ps((__m512)values);
#else
    float sums[LANES];
    memcpy(sums, &values, sizeof sums);
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int lane = 0; lane < half; lane++)
            sums[lane] += sums[lane + half];
    return sums[0];
#endif
}

/* As `times_plus`. */
INLINE float fused(float a, float b, float c)
{
    return FUSES ? __builtin_fmaf(a, b, c) : a * b + c;
}

/* eˣ: x = n ln 2 + r with |r| <= ln 2 / 2, a polynomial of r, and n added to the exponent. Below
 * -87 it is 0, above 88 it is e⁸⁸; what is no number stays none. */
INLINE float exponential(float x)
{
    float low = x < -87.0f ? -87.0f : x, bounded = low > 88.0f ? 88.0f : low;
    float n = fused(bounded, 1.44269504f, 12582912.0f); /* the fraction is rounded away */
    n -= 12582912.0f;
    float r = fused(n, 2.12194440e-4f, fused(n, -0.693359375f, bounded));
    float p = 1.9875691500e-4f;
    p = fused(p, r, 1.3981999507e-3f);
    p = fused(p, r, 8.3334519073e-3f);
    p = fused(p, r, 4.1665795894e-2f);
    p = fused(p, r, 1.6666665459e-1f);
    p = fused(p, r, 5.0000001201e-1f);
    p = fused(p * r, r, r) + 1.0f;
    int32_t exponent = ((int32_t)(n == n ? n : 0.0f) + 127) << 23;
    float power;
    memcpy(&power, &exponent, 4);
    return x < -87.0f ? 0.0f : p * power;
}

/* SiLU(gate) · up; `inner` may be one of both. */
INLINE void silu_and_mul(const float *gate, const float *up, int64_t count, int dtype, float *inner)
{
    if (dtype == BFLOAT16) {
#pragma omp simd
        for (int64_t i = 0; i < count; i++) {
            float silu = gate[i] / (1.0f + exponential(-gate[i]));
            inner[i] = rounded(rounded(silu, BFLOAT16) * up[i], BFLOAT16);
        }
    } else {
#pragma omp simd
        for (int64_t i = 0; i < count; i++)
            inner[i] = gate[i] / (1.0f + exponential(-gate[i])) * up[i];
    }
}

/* ---- how a matrix is multiplied with ---- */

#define TILE_ROWS 16
#define TILE_BYTES 64 /* of a row */
#define MOST_ROWS (HAS_BF16_DOTS || HAS_INT8_DOTS || HAS_TILES ? 64 : 8)

static int tiles_are_ours; /* asked for once, when the library is loaded */

#if HAS_TILES
__attribute__((constructor)) static void ask_for_tiles(void)
{
    enum { REQUEST = 0x1023, TILE_DATA = 18 }; /* the system saves tiles for those who asked */
    tiles_are_ours = syscall(SYS_arch_prctl, REQUEST, TILE_DATA) == 0;
}
#endif

/* Whether rows of that type are multiplied in the type of the weights, bfloat16 or bytes. (Rows of
 * floats would lose half of their digits in bfloat16.) Then the matrix takes any number of them. */
INLINE int in_type_of_weights(const Matrix *matrix, int dtype)
{
    int in_bf16 = (HAS_BF16_DOTS || tiles_are_ours) && dtype == BFLOAT16;
    return matrix->layout == BF16_PANELS   ? in_bf16
           : matrix->layout == INT8_PANELS ? HAS_INT8_DOTS || tiles_are_ours
                                           : 0;
}

/* Whether in tiles. In bfloat16, all rows are if any, so that a row's numbers do not depend on how many
 * there are; sums of bytes are the same either way, and four rows faster without. */
INLINE int in_tiles(const Matrix *matrix, int num_rows, int dtype)
{
    int fits = matrix->layout == BF16_PANELS ? matrix->panel_outputs == 32 : num_rows > 4;
    return tiles_are_ours && fits && in_type_of_weights(matrix, dtype);
}

/* So many rows of that type are few. */
int pharos_most_rows(const Matrix *matrix, int dtype)
{
    return in_type_of_weights(matrix, dtype) ? MOST_ROWS : 8;
}

/* Whether the matrix takes any number of rows of that type. */
int pharos_takes_many(const Matrix *matrix, int dtype)
{
    return in_type_of_weights(matrix, dtype);
}

/* ---- rows as the matrices take them ---- */

INLINE int64_t padded(int64_t count) { return (count + 63) / 64 * 64; }

INLINE int input_bytes(const Matrix *matrix) { return matrix->layout == BF16_PANELS ? 2 : 1; }

/* N rows in floats; where they are multiplied in the type of the weights also as bytes around 128,
 * where 127 steps are `most`, or in bfloat16, in the same memory: there is room for whole tiles. */
typedef struct {
    float *x_NI;
    union {
        uint8_t *q_NI;
        uint16_t *h_NI;
    };
    float *most_N;
    int64_t stride;
    int num_rows;
} Rows;

static int64_t rows_floats(int num_rows, int64_t num_inputs)
{
    int64_t in_tiles = (num_rows + 15) / 16 * 16;
    return padded(num_inputs) * (num_rows + in_tiles / 2) + padded(num_rows);
}

static Rows make_rows(float *memory, int num_rows, int64_t num_inputs)
{
    int64_t stride = padded(num_inputs);
    float *most_N = memory + stride * num_rows;
    return (Rows){memory, {(uint8_t *)(most_N + padded(num_rows))}, most_N, stride, num_rows};
}

/* As `quantize_around_zero` does, to the bit. A row with what is no number becomes none. */
static void quantize(Rows *rows, int64_t num_inputs, int dtype)
{
    for (int n = 0; n < rows->num_rows; n++) {
        float *x_I = rows->x_NI + n * rows->stride, most = 0.0f;
        uint8_t *q_I = rows->q_NI + n * rows->stride;
        int has_nan = 0;
#pragma omp simd reduction(max : most) reduction(| : has_nan)
        for (int64_t i = 0; i < num_inputs; i++) {
            most = fabsf(x_I[i]) > most ? fabsf(x_I[i]) : most;
            has_nan |= x_I[i] != x_I[i];
        }
        most = most > 1e-12f ? most : rounded(1e-12f, dtype);
        float step = 1.0f / most * 127.0f; /* torch rounds twice */
#pragma omp simd
        for (int64_t i = 0; i < num_inputs; i++)
            x_I[i] *= step;
#pragma omp simd
        for (int64_t i = 0; i < num_inputs; i++)
            q_I[i] = x_I[i] == x_I[i] ? (uint8_t)(int32_t)(x_I[i] + 128.5f) : 128;
        rows->most_N[n] = has_nan ? NAN : most;
    }
}

/* They are zero behind the inputs, as a panel is. */
static void halve(Rows *rows, const float *x_NI, int64_t stride, int64_t num_inputs)
{
    for (int n = 0; n < rows->num_rows; n++) {
        uint16_t *h_I = rows->h_NI + n * rows->stride;
        narrow(x_NI + n * stride, num_inputs, BFLOAT16, h_I);
        memset(h_I + num_inputs, 0, 2 * (padded(num_inputs) - num_inputs));
    }
}

INLINE void finish_rows(Rows *rows, const Matrix *matrix, int dtype)
{
    if (matrix->layout == INT8_PANELS)
        quantize(rows, matrix->num_inputs, dtype);
    else if (in_type_of_weights(matrix, dtype))
        halve(rows, rows->x_NI, rows->stride, matrix->num_inputs);
}

static void copy_rows(Rows *rows, const float *x_NI, const Matrix *matrix, int dtype)
{
    int64_t width = matrix->num_inputs;
    if (matrix->layout == BF16_PANELS && in_type_of_weights(matrix, dtype)) {
        halve(rows, x_NI, width, width);
        return;
    }
    for (int n = 0; n < rows->num_rows; n++)
        memcpy(rows->x_NI + n * rows->stride, x_NI + n * width, 4 * width);
    finish_rows(rows, matrix, dtype);
}

INLINE void norm(float *x_D, const float *weight_D, int64_t width, float eps, int dtype)
{
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < width; i++)
        sum += x_D[i] * x_D[i];
    float scale = 1.0f / sqrtf(sum / width + eps);
    if (dtype == BFLOAT16) {
#pragma omp simd
        for (int64_t i = 0; i < width; i++)
            x_D[i] = rounded(x_D[i] * scale * weight_D[i], BFLOAT16);
    } else {
#pragma omp simd
        for (int64_t i = 0; i < width; i++)
            x_D[i] = x_D[i] * scale * weight_D[i];
    }
}

static void normed_rows(Rows *rows, const void *x_ND, int x_dtype, const float *weight_D, float eps,
                        const Matrix *matrix, int dtype)
{
    int64_t width = matrix->num_inputs;
    for (int n = 0; n < rows->num_rows; n++) {
        float *x_D = rows->x_NI + n * rows->stride;
        widen(at(x_ND, x_dtype, n * width), x_dtype, width, x_D);
        norm(x_D, weight_D, width, eps, dtype);
    }
    finish_rows(rows, matrix, dtype);
}

/* ---- a panel of outputs ---- */

#define WIDEST 64      /* outputs of a panel */
#define MOST_AT_ONCE 6 /* rows whose sums stay in registers */

typedef float Panel[MOST_ROWS][WIDEST];

INLINE int num_panels(const Matrix *matrix)
{
    return (matrix->num_outputs + matrix->panel_outputs - 1) / matrix->panel_outputs;
}

INLINE const char *panel_at(const Matrix *matrix, int panel)
{
    int64_t size = matrix->layout == BF16_PANELS ? 2 : 1;
    int64_t first = (int64_t)panel * matrix->panel_outputs * matrix->padded_inputs;
    return (const char *)matrix->weight + size * first;
}

/* Thirty-two outputs of a panel in floats. A word is the weights of two inputs: bfloat16 is the upper
 * half of a float. The words of two inputs lie `across` words from those of the next two. */
INLINE void bf16_floats(const uint32_t *words, int64_t across, int64_t num_pairs, const float *x_NI,
                        int64_t stride, const int num_rows, float (*y)[WIDEST])
{
    Floats even[4][2] = {}, odd[4][2] = {};
    for (int64_t i = 0; i < num_pairs; i++) {
        Words one, two;
        fetch_ahead(words + across * i);
        fetch_ahead(words + across * i + LANES);
        memcpy(&one, words + across * i, sizeof one);
        memcpy(&two, words + across * i + LANES, sizeof two);
        const Floats one_even = (Floats)(one << 16), one_odd = (Floats)(one & 0xffff0000u);
        const Floats two_even = (Floats)(two << 16), two_odd = (Floats)(two & 0xffff0000u);
#pragma GCC unroll 4
        for (int n = 0; n < num_rows; n++) {
            const float *x = x_NI + n * stride + 2 * i;
            const Floats x_even = splat(x[0]), x_odd = splat(x[1]);
            even[n][0] = times_plus(x_even, one_even, even[n][0]);
            even[n][1] = times_plus(x_even, two_even, even[n][1]);
            odd[n][0] = times_plus(x_odd, one_odd, odd[n][0]);
            odd[n][1] = times_plus(x_odd, two_odd, odd[n][1]);
        }
    }
#pragma GCC unroll 4
    for (int n = 0; n < num_rows; n++) {
        store(even[n][0] + odd[n][0], y[n]);
        store(even[n][1] + odd[n][1], y[n] + LANES);
    }
}

/* Adds two products of bfloat16 in each lane: x of two inputs, the weights of sixteen outputs. */
INLINE Floats dot2(Floats sums, uint32_t x, Words weights)
{
#if HAS_BF16_DOTS
    const __m512bh of_row = (__m512bh)_mm512_set1_epi32((int)x);
    return (Floats)_mm512_dpbf16_ps((__m512)sums, of_row, (__m512bh)weights);
#else
    sums = times_plus(splat(from_bf16((uint16_t)x)), (Floats)(weights << 16), sums);
    return times_plus(splat(from_bf16(x >> 16)), (Floats)(weights & 0xffff0000u), sums);
#endif
}

/* All outputs of a panel, rows in bfloat16 too. */
INLINE void bf16_dots(const uint32_t *words, int64_t num_pairs, const uint16_t *h_NI, int64_t stride,
                      const int num_rows, const int num_vectors, int64_t ahead, float (*y)[WIDEST])
{
    Floats sums[MOST_AT_ONCE][4] = {};
    for (int64_t i = 0; i < num_pairs; i++) {
        Words weights[4];
#pragma GCC unroll 4
        for (int j = 0; j < num_vectors; j++)
            fetch((const char *)(words + (num_vectors * i + j) * LANES) + ahead);
#pragma GCC unroll 4
        for (int j = 0; j < num_vectors; j++)
            memcpy(&weights[j], words + (num_vectors * i + j) * LANES, sizeof(Words));
#pragma GCC unroll 6
        for (int n = 0; n < num_rows; n++) {
            uint32_t x;
            memcpy(&x, h_NI + n * stride + 2 * i, 4);
#pragma GCC unroll 4
            for (int j = 0; j < num_vectors; j++)
                sums[n][j] = dot2(sums[n][j], x, weights[j]);
        }
    }
#pragma GCC unroll 6
    for (int n = 0; n < num_rows; n++)
#pragma GCC unroll 4
        for (int j = 0; j < num_vectors; j++)
            store(sums[n][j], y[n] + LANES * j);
}

/* Adds four products of bytes in each lane: x of four inputs, the weights of sixteen outputs. */
INLINE Ints dot4(Ints sums, uint32_t x, Ints weights)
{
#if HAS_INT8_DOTS
    return (Ints)_mm512_dpbusd_epi32((__m512i)sums, _mm512_set1_epi32((int)x), (__m512i)weights);
#else
    for (int j = 0; j < 4; j++)
        sums += (int32_t)(x >> 8 * j & 255) * ((Ints)((Words)weights << (24 - 8 * j)) >> 24);
    return sums;
#endif
}

INLINE void int8_dots(const int8_t *bytes, int64_t num_quads, const Rows *rows, int first,
                      const int num_rows, const int32_t *sums_O, int64_t ahead, float (*y)[WIDEST])
{
    Ints sums[MOST_AT_ONCE][4] = {};
    for (int64_t i = 0; i < num_quads; i++) {
        Ints weights[4];
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++)
            fetch(bytes + 256 * i + 64 * j + ahead);
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++)
            memcpy(&weights[j], bytes + 256 * i + 64 * j, sizeof(Ints));
#pragma GCC unroll 6
        for (int n = 0; n < num_rows; n++) {
            uint32_t x;
            memcpy(&x, rows->q_NI + (first + n) * rows->stride + 4 * i, 4);
#pragma GCC unroll 4
            for (int j = 0; j < 4; j++)
                sums[n][j] = dot4(sums[n][j], x, weights[j]);
        }
    }
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        Ints of_weights;
        memcpy(&of_weights, sums_O + LANES * j, sizeof of_weights);
#pragma GCC unroll 6
        for (int n = 0; n < num_rows; n++)
            store(__builtin_convertvector(sums[n][j] - 128 * of_weights, Floats), y[n] + LANES * j);
    }
}

INLINE Floats floats_of(const int8_t *bytes)
{
#if defined(__AVX512F__)
    const __m128i some = _mm_loadu_si128((const __m128i *)bytes);
    return (Floats)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(some));
#else
    float values[LANES];
#pragma omp simd
    for (int lane = 0; lane < LANES; lane++)
        values[lane] = bytes[lane];
    return load(values);
#endif
}

/* `num_outputs` rows of weights, with bytes made floats once for all rows. */
INLINE void int8_rows(const int8_t *bytes, int64_t num_inputs, const float *x_NI, int64_t stride,
                      const int num_rows, const int num_outputs, float (*y)[WIDEST])
{
    Floats sums[4][4] = {};
    int64_t i = 0;
    for (; i + LANES <= num_inputs; i += LANES) {
        Floats weights[4];
        /* The outputs after these: with tiles, a page further was measured. */
        fetch(bytes + num_outputs * i + (HAS_TILES ? AHEAD : num_outputs * num_inputs));
#pragma GCC unroll 4
        for (int o = 0; o < num_outputs; o++) {
            weights[o] = floats_of(bytes + o * num_inputs + i);
        }
#pragma GCC unroll 4
        for (int n = 0; n < num_rows; n++) {
            const Floats x = load(x_NI + n * stride + i);
#pragma GCC unroll 4
            for (int o = 0; o < num_outputs; o++)
                sums[n][o] = times_plus(x, weights[o], sums[n][o]);
        }
    }
    for (int n = 0; n < num_rows; n++)
        for (int o = 0; o < num_outputs; o++) {
            float sum = sum_of(sums[n][o]);
            for (int64_t rest = i; rest < num_inputs; rest++)
                sum += x_NI[n * stride + rest] * bytes[o * num_inputs + rest];
            y[n][o] = sum;
        }
}

/* Some rows, a number that the compiler sees, with a panel: in the type of the weights up to six, in
 * floats up to four. While others than the first rows are multiplied, the panel is in the second cache,
 * and the memory has time for the next one. */
INLINE void dots_with_panel(const Matrix *matrix, int panel, const Rows *rows, int first,
                            const int num_rows, float (*y)[WIDEST])
{
    const void *weights = panel_at(matrix, panel);
    const int64_t num_inputs = matrix->num_inputs, stride = rows->stride;
    const int64_t size = panel_at(matrix, 1) - panel_at(matrix, 0);
    const int64_t ahead = first > 0 && size <= LARGEST_AHEAD ? size : AHEAD;
    const uint16_t *h_NI = rows->h_NI + first * stride;
    if (matrix->layout == INT8_PANELS)
        int8_dots(weights, num_inputs / 4, rows, first, num_rows, matrix->sums_O + WIDEST * panel,
                  ahead, y);
    else if (matrix->panel_outputs == WIDEST)
        bf16_dots(weights, num_inputs / 2, h_NI, stride, num_rows, 4, ahead, y);
    else
        bf16_dots(weights, num_inputs / 2, h_NI, stride, num_rows, 2, ahead, y);
}

INLINE void floats_with_panel(const Matrix *matrix, int panel, int num_outputs, const Rows *rows,
                              int first, const int num_rows, float (*y)[WIDEST])
{
    const int64_t num_inputs = matrix->num_inputs, stride = rows->stride;
    const int across = matrix->panel_outputs;
    const float *x_NI = rows->x_NI + first * stride;
    const void *weights = panel_at(matrix, panel);
    float part[4][WIDEST];
    if (matrix->layout == BF16_PANELS) {
        for (int o = 0; o < across; o += 2 * LANES) {
            const uint32_t *words = (const uint32_t *)weights + o;
            bf16_floats(words, across, num_inputs / 2, x_NI, stride, num_rows, part);
            for (int n = 0; n < num_rows; n++)
                memcpy(y[n] + o, part[n], 2 * sizeof(Floats));
        }
    } else {
        const int8_t *bytes = weights;
        int o = 0;
        for (; o + 4 <= num_outputs; o += 4) {
            int8_rows(bytes + o * num_inputs, num_inputs, x_NI, stride, num_rows, 4, part);
            for (int n = 0; n < num_rows; n++)
                memcpy(y[n] + o, part[n], 4 * sizeof(float));
        }
        for (; o < num_outputs; o++) {
            int8_rows(bytes + o * num_inputs, num_inputs, x_NI, stride, num_rows, 1, part);
            for (int n = 0; n < num_rows; n++)
                y[n][o] = part[n][0];
        }
    }
}

INLINE void times(float *y, const float *scale, int count)
{
#pragma omp simd
    for (int i = 0; i < count; i++)
        y[i] *= scale[i];
}

INLINE void round_all(float *y, int count, int dtype)
{
    if (dtype == BFLOAT16) {
#pragma omp simd
        for (int i = 0; i < count; i++)
            y[i] = rounded(y[i], BFLOAT16);
    }
}

#if HAS_TILES
/* All eight tiles are whole. 0 to 3 are sums: of the first or second rows (4 or 5) with the first
 * or second outputs (6 or 7). */
INLINE void begin_tiles(void)
{
    struct {
        uint8_t palette, start, nothing[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } shapes = {.palette = 1};
    for (int tile = 0; tile < 8; tile++) {
        shapes.row_bytes[tile] = TILE_BYTES;
        shapes.rows[tile] = TILE_ROWS;
    }
    /* Older headers do not tell the compiler that the shapes are read, nor the loads that follow. */
    __asm__ volatile("" ::"r"(&shapes) : "memory");
    _tile_loadconfig(&shapes);
    __asm__ volatile("" ::: "memory");
}

/* Thirty-two outputs of sixteen rows or, if `has_more`, thirty-two. A row of a tile of weights has
 * two (bfloat16) or four (bytes) inputs of sixteen outputs, and lies `across` bytes from the
 * next one. */
INLINE void tiles_of_panel(const char *weights, int64_t across, const char *rows, int64_t stride,
                           int64_t num_steps, const int of_bytes, const int has_more, float *y)
{
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t i = 0; i < num_steps; i++) {
        const char *some = weights + i * TILE_ROWS * across, *of_rows = rows + i * TILE_BYTES;
        for (int64_t line = 0; line < TILE_ROWS * across; line += 64)
            fetch_ahead(some + line);
        _tile_loadd(4, of_rows, stride);
        _tile_loadd(6, some, across);
        _tile_loadd(7, some + TILE_BYTES, across);
        if (of_bytes) {
            _tile_dpbusd(0, 4, 6);
            _tile_dpbusd(1, 4, 7);
        } else {
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 4, 7);
        }
        if (has_more) {
            _tile_loadd(5, of_rows + TILE_ROWS * stride, stride);
            if (of_bytes) {
                _tile_dpbusd(2, 5, 6);
                _tile_dpbusd(3, 5, 7);
            } else {
                _tile_dpbf16ps(2, 5, 6);
                _tile_dpbf16ps(3, 5, 7);
            }
        }
    }
    _tile_stored(0, y, 4 * WIDEST);
    _tile_stored(1, y + LANES, 4 * WIDEST);
    if (has_more) {
        _tile_stored(2, y + TILE_ROWS * WIDEST, 4 * WIDEST);
        _tile_stored(3, y + TILE_ROWS * WIDEST + LANES, 4 * WIDEST);
    }
}

INLINE void panel_in_tiles(const Matrix *matrix, int panel, const Rows *rows, const int of_bytes,
                           Panel y)
{
    const int width = of_bytes ? 64 : 32, input_bytes = of_bytes ? 1 : 2;
    const int64_t stride = rows->stride * input_bytes;
    const int64_t num_steps = (matrix->num_inputs * input_bytes + TILE_BYTES - 1) / TILE_BYTES;
    begin_tiles();
    for (int n = 0; n < rows->num_rows; n += 2 * TILE_ROWS)
        for (int o = 0; o < width; o += 2 * LANES) {
            const char *weights = panel_at(matrix, panel) + 4 * o;
            const char *some = (const char *)rows->q_NI + n * stride;
            const int64_t across = 4 * width;
            if (rows->num_rows - n > TILE_ROWS)
                tiles_of_panel(weights, across, some, stride, num_steps, of_bytes, 1, &y[n][o]);
            else
                tiles_of_panel(weights, across, some, stride, num_steps, of_bytes, 0, &y[n][o]);
        }
    _tile_release();
}

static void multiply_in_tiles(const Matrix *matrix, int panel, const Rows *rows, Panel y)
{
    if (matrix->layout == BF16_PANELS) {
        panel_in_tiles(matrix, panel, rows, 0, y);
        return;
    }
    panel_in_tiles(matrix, panel, rows, 1, y);
    const int32_t *sums_O = matrix->sums_O + WIDEST * panel;
    for (int n = 0; n < rows->num_rows; n++)
        for (int o = 0; o < WIDEST; o += LANES) {
            Ints found, of_weights;
            memcpy(&found, y[n] + o, sizeof found);
            memcpy(&of_weights, sums_O + o, sizeof of_weights);
            store(__builtin_convertvector(found - 128 * of_weights, Floats), y[n] + o);
        }
}
#endif

/* In as few parts as there can be, of about as many rows. */
static void multiply_in_dots(const Matrix *matrix, int panel, const Rows *rows, Panel y)
{
    int count = rows->num_rows, parts = (count + MOST_AT_ONCE - 1) / MOST_AT_ONCE;
    for (int n = 0, some; parts > 0; n += some, parts--)
        switch (some = (count - n + parts - 1) / parts) {
        case 1: dots_with_panel(matrix, panel, rows, n, 1, y + n); break;
        case 2: dots_with_panel(matrix, panel, rows, n, 2, y + n); break;
        case 3: dots_with_panel(matrix, panel, rows, n, 3, y + n); break;
        case 4: dots_with_panel(matrix, panel, rows, n, 4, y + n); break;
        case 5: dots_with_panel(matrix, panel, rows, n, 5, y + n); break;
        default: dots_with_panel(matrix, panel, rows, n, MOST_AT_ONCE, y + n);
        }
}

static void multiply_in_floats(const Matrix *matrix, int panel, int num_outputs, const Rows *rows,
                               Panel y)
{
    int n = 0, count = rows->num_rows;
    for (; n + 4 <= count; n += 4)
        floats_with_panel(matrix, panel, num_outputs, rows, n, 4, y + n);
    for (; n + 2 <= count; n += 2)
        floats_with_panel(matrix, panel, num_outputs, rows, n, 2, y + n);
    if (n < count)
        floats_with_panel(matrix, panel, num_outputs, rows, n, 1, y + n);
}

/* The outputs of one panel for all rows, as the layer would give them; how many there are. */
static int multiply(const Matrix *matrix, int panel, const Rows *rows, int dtype, Panel y)
{
    int width = matrix->panel_outputs, first = panel * width, left = matrix->num_outputs - first;
    int num_outputs = left < width ? left : width;
#if HAS_TILES
    if (in_tiles(matrix, rows->num_rows, dtype))
        multiply_in_tiles(matrix, panel, rows, y);
    else
#endif
    if (matrix->layout == INT8_PANELS || in_type_of_weights(matrix, dtype))
        multiply_in_dots(matrix, panel, rows, y);
    else
        multiply_in_floats(matrix, panel, num_outputs, rows, y);
    for (int n = 0; n < rows->num_rows; n++) {
        if (matrix->layout != BF16_PANELS)
            times(y[n], matrix->scale_O + first, num_outputs);
        round_all(y[n], num_outputs, dtype);
        if (matrix->layout == INT8_PANELS) {
            for (int o = 0; o < num_outputs; o++)
                y[n][o] *= rows->most_N[n];
            round_all(y[n], num_outputs, dtype);
        }
        if (matrix->bias_O) {
            for (int o = 0; o < num_outputs; o++)
                y[n][o] += matrix->bias_O[first + o];
            round_all(y[n], num_outputs, dtype);
        }
    }
    return num_outputs;
}

/* ---- who does what ---- */

typedef struct {
    int number, count;
} Thread;

typedef struct {
    int first, stop;
} Span;

INLINE Thread this_thread(void) { return (Thread){omp_get_thread_num(), omp_get_num_threads()}; }

INLINE Span share_of(int count, Thread thread)
{
    int64_t wide = count;
    return (Span){wide * thread.number / thread.count, wide * (thread.number + 1) / thread.count};
}

/* Asks for the first weights of a thread's share, before it waits for the others. */
INLINE void fetch_first(const Matrix *matrix, Thread thread)
{
    const char *first = panel_at(matrix, share_of(num_panels(matrix), thread).first);
    for (int i = 0; i < AHEAD; i += 64)
        fetch(first + i);
}

/* ---- one linear ---- */

/* So many rows of a prompt lie in a thread's cache while its panels pass by. */
#define CACHED_ROWS 128

INLINE int is_many(int num_rows) { return num_rows > MOST_ROWS; }

/* Of many rows only what is multiplied is kept, beside the floats of one row for each thread. */
int64_t pharos_linear_floats(const Matrix *matrix, int num_rows, int num_threads)
{
    if (!is_many(num_rows))
        return num_threads * rows_floats(num_rows, matrix->num_inputs);
    int64_t whole_tiles = (num_rows + TILE_ROWS - 1) / TILE_ROWS * TILE_ROWS;
    int64_t floats = whole_tiles / 4 * input_bytes(matrix);
    return padded(matrix->num_inputs) * (num_threads + floats) + padded(num_rows);
}

/* Some rows with one panel, the first of them being row `number` of the output. */
static void write_outputs(const Matrix *matrix, int panel, const Rows *rows, int dtype,
                          void *y_NO, int64_t number)
{
    Panel y;
    int count = multiply(matrix, panel, rows, dtype, y);
    int64_t index = number * matrix->num_outputs + (int64_t)panel * matrix->panel_outputs;
    for (int n = 0; n < rows->num_rows; n++, index += matrix->num_outputs)
        narrow(y[n], count, dtype, (void *)at(y_NO, dtype, index));
}

static void linear_of_few(const Matrix *matrix, const void *x_NI, void *y_NO, int num_rows,
                          int dtype, int num_threads, float *memory)
{
#pragma omp parallel num_threads(num_threads)
    {
        Thread thread = this_thread();
        int64_t own = rows_floats(num_rows, matrix->num_inputs);
        Rows rows = make_rows(memory + own * thread.number, num_rows, matrix->num_inputs);
        for (int n = 0; n < num_rows; n++)
            widen(at(x_NI, dtype, (int64_t)n * matrix->num_inputs), dtype, matrix->num_inputs,
                  rows.x_NI + n * rows.stride);
        finish_rows(&rows, matrix, dtype);
        Span panels = share_of(num_panels(matrix), thread);
        for (int panel = panels.first; panel < panels.stop; panel++)
            write_outputs(matrix, panel, &rows, dtype, y_NO, 0);
    }
}

/* Rows as they are multiplied, and one row of floats for each thread. */
typedef struct {
    const Matrix *matrix;
    float *own, *most_N;
    uint8_t *q_NI;
    int64_t stride;
    int num_rows;
} PackedRows;

static PackedRows packed_in(float *memory, int num_rows, const Matrix *matrix, int num_threads)
{
    int64_t stride = padded(matrix->num_inputs);
    float *most_N = memory + stride * num_threads;
    uint8_t *q_NI = (uint8_t *)(most_N + padded(num_rows));
    return (PackedRows){matrix, memory, most_N, q_NI, stride, num_rows};
}

INLINE Rows rows_at(const PackedRows *packed, int first, int count)
{
    float *own = packed->own + packed->stride * omp_get_thread_num();
    uint8_t *q_NI = packed->q_NI + first * packed->stride * input_bytes(packed->matrix);
    return (Rows){own, {q_NI}, packed->most_N + first, packed->stride, count};
}

/* By all threads of a region, which go on when all rows are there. */
static void pack_rows(const PackedRows *packed, const void *x_NI, int dtype)
{
    int64_t width = packed->matrix->num_inputs;
#pragma omp for schedule(dynamic, 8)
    for (int n = 0; n < packed->num_rows; n++) {
        Rows one = rows_at(packed, n, 1);
        if (packed->matrix->layout == BF16_PANELS) {
            memcpy(one.h_NI, at(x_NI, dtype, n * width), 2 * width);
            memset(one.h_NI + width, 0, 2 * (packed->stride - width));
        } else {
            widen(at(x_NI, dtype, n * width), dtype, width, one.x_NI);
            quantize(&one, width, dtype);
        }
    }
}

/* What is computed at a time: some rows, which stay in the caches, with one panel. Each thread takes
 * the next when it is done, for cores that others use too are not always equally fast. */
typedef struct {
    int panel, first, stop;
} Piece;

INLINE int num_pieces(const Matrix *matrix, int num_rows)
{
    return (num_rows + CACHED_ROWS - 1) / CACHED_ROWS * num_panels(matrix);
}

INLINE Piece piece_at(const Matrix *matrix, int number, int num_rows)
{
    int first = number / num_panels(matrix) * CACHED_ROWS;
    return (Piece){number % num_panels(matrix), first, at_most(num_rows, first + CACHED_ROWS)};
}

static void linear_of_many(const Matrix *matrix, const void *x_NI, void *y_NO, int num_rows,
                           int dtype, int num_threads, float *memory)
{
    PackedRows packed = packed_in(memory, num_rows, matrix, num_threads);
#pragma omp parallel num_threads(num_threads)
    {
        pack_rows(&packed, x_NI, dtype);
#pragma omp for schedule(dynamic) nowait
        for (int number = 0; number < num_pieces(matrix, num_rows); number++) {
            Piece piece = piece_at(matrix, number, num_rows);
            for (int n = piece.first; n < piece.stop; n += MOST_ROWS) {
                Rows some = rows_at(&packed, n, at_most(piece.stop - n, MOST_ROWS));
                write_outputs(matrix, piece.panel, &some, dtype, y_NO, n);
            }
        }
    }
}

void pharos_linear(const Matrix *matrix, const void *x_NI, void *y_NO, int num_rows, int dtype,
                   int num_threads, float *memory)
{
    if (is_many(num_rows))
        linear_of_many(matrix, x_NI, y_NO, num_rows, dtype, num_threads, memory);
    else
        linear_of_few(matrix, x_NI, y_NO, num_rows, dtype, num_threads, memory);
}

/* ---- rows of a prompt ---- */

/* `memory` has a row of floats for each thread. */
void pharos_norm(const void *x_ND, const float *weight_D, float eps, void *y_ND, int num_rows,
                 int width, int dtype, int num_threads, float *memory)
{
#pragma omp parallel for schedule(dynamic, 16) num_threads(num_threads) if (num_rows > 16)
    for (int n = 0; n < num_rows; n++) {
        int64_t first = (int64_t)n * width;
        float *own_D = memory + (int64_t)width * omp_get_thread_num();
        widen(at(x_ND, dtype, first), dtype, width, own_D);
        norm(own_D, weight_D, width, eps, dtype);
        narrow(own_D, width, dtype, (void *)at(y_ND, dtype, first));
    }
}

#define AT_A_TIME 1024

/* In place of `gate`. */
void pharos_silu_and_mul(void *gate, const void *up, int64_t count, int dtype, int num_threads)
{
#pragma omp parallel for schedule(dynamic, 16) num_threads(num_threads) if (count > 16 * AT_A_TIME)
    for (int64_t first = 0; first < count; first += AT_A_TIME) {
        float own_gate[AT_A_TIME], own_up[AT_A_TIME];
        int64_t some = at_most(count - first, AT_A_TIME);
        void *place = (void *)at(gate, dtype, first);
        widen(place, dtype, some, own_gate);
        widen(at(up, dtype, first), dtype, some, own_up);
        silu_and_mul(own_gate, own_up, some, dtype, own_gate);
        narrow(own_gate, some, dtype, place);
    }
}

/* SiLU(x gateᵀ) · (x upᵀ) of matrices that take many rows. `memory` is that of `pharos_linear` for
 * either. */
void pharos_swiglu(const Matrix *gate, const Matrix *up, const void *x_NI, void *y_NO, int num_rows,
                  int dtype, int num_threads, float *memory)
{
    int64_t width = up->num_outputs;
    PackedRows packed = packed_in(memory, num_rows, up, num_threads);
#pragma omp parallel num_threads(num_threads)
    {
        Panel of_gate, of_up;
        pack_rows(&packed, x_NI, dtype);
#pragma omp for schedule(dynamic) nowait
        for (int number = 0; number < num_pieces(up, num_rows); number++) {
            Piece piece = piece_at(up, number, num_rows);
            for (int first = piece.first; first < piece.stop; first += MOST_ROWS) {
                Rows some = rows_at(&packed, first, at_most(piece.stop - first, MOST_ROWS));
                multiply(gate, piece.panel, &some, dtype, of_gate);
                int count = multiply(up, piece.panel, &some, dtype, of_up);
                int64_t index = first * width + (int64_t)piece.panel * up->panel_outputs;
                for (int n = 0; n < some.num_rows; n++, index += width) {
                    silu_and_mul(of_gate[n], of_up[n], count, dtype, of_up[n]);
                    narrow(of_up[n], count, dtype, (void *)at(y_NO, dtype, index));
                }
            }
        }
    }
}

/* ---- attention ---- */

INLINE float *head_of(const Block *block, float *qkv_NX, int64_t row, int head)
{
    int64_t heads = block->num_heads + 2 * block->num_groups;
    return qkv_NX + (row * heads + head) * block->head_dim;
}

/* The norm of a query or key, if there is one, and its rotation. */
static void place_head(const Block *block, const Pass *pass, int row, const float *norm_K,
                       const float *from_K, float *x_K)
{
    int num_pairs = pass->num_pairs;
    memcpy(x_K, from_K, 4 * block->head_dim);
    if (norm_K)
        norm(x_K, norm_K, block->head_dim, block->head_eps, pass->dtype);
    float cos_E[num_pairs], sin_E[num_pairs];
    widen(at(pass->cos_NE, pass->dtype, (int64_t)row * num_pairs), pass->dtype, num_pairs, cos_E);
    widen(at(pass->sin_NE, pass->dtype, (int64_t)row * num_pairs), pass->dtype, num_pairs, sin_E);
    for (int i = 0; i < num_pairs; i++) {
        float one = x_K[i], two = x_K[i + num_pairs];
        x_K[i] = rounded(one * cos_E[i] - two * sin_E[i], pass->dtype);
        x_K[i + num_pairs] = rounded(two * cos_E[i] + one * sin_E[i], pass->dtype);
    }
}

/* Where the keys (0) or values (1) of a head begin that stand at a slot and after it. */
INLINE void *stored(const Block *block, const Pass *pass, void *kv_2GSK, int which, int group,
                    int64_t slot)
{
    int64_t head = (int64_t)which * block->num_groups + group;
    int64_t index = (head * pass->num_slots + slot) * block->head_dim;
    return (void *)at(kv_2GSK, pass->dtype, index);
}

static void store_keys(const Block *block, const Pass *pass, float *qkv_NX, void *kv_2GSK,
                       Thread thread)
{
    Span units = share_of(pass->num_rows * block->num_groups, thread);
    float key_K[block->head_dim];
    for (int unit = units.first; unit < units.stop; unit++) {
        int row = unit / block->num_groups, group = unit % block->num_groups;
        const float *k_K = head_of(block, qkv_NX, row, block->num_heads + group);
        const float *v_K = k_K + block->num_groups * block->head_dim;
        int64_t slot = pass->slots_N[row];
        place_head(block, pass, row, block->key_norm_K, k_K, key_K);
        narrow(key_K, block->head_dim, pass->dtype, stored(block, pass, kv_2GSK, 0, group, slot));
        narrow(v_K, block->head_dim, pass->dtype, stored(block, pass, kv_2GSK, 1, group, slot));
    }
}

/* Keys are read sixteen at a time, once for the heads that share them; the softmax goes along
 * (Milakov & Gimelshein 2018, arXiv:1805.02867). */
typedef struct {
    float *q_RK, *out_RK, *most_R, *sum_R, *k_LK, *v_LK;
} Softmax;

INLINE int64_t softmax_floats(const Block *block)
{
    int64_t heads = block->num_heads / block->num_groups;
    return padded(2 * heads * (block->head_dim + 1) + 2 * LANES * block->head_dim);
}

INLINE Softmax make_softmax(float *memory, int64_t heads, int64_t width)
{
    float *most_R = memory + 2 * heads * width, *k_LK = most_R + 2 * heads;
    return (Softmax){memory,         memory + heads * width, most_R,
                     most_R + heads, k_LK,                   k_LK + LANES * width};
}

/* Of a width that the compiler sees, a head's sums stay in registers. */
INLINE void weigh(const Softmax *softmax, int head, int count, const int64_t width)
{
    const float *q_K = softmax->q_RK + head * width;
    float *out_K = softmax->out_RK + head * width, scores[LANES], most = softmax->most_R[head];
    for (int s = 0; s < LANES; s++)
        scores[s] = -INFINITY;
    for (int s = 0; s < count; s++) {
        const float *k_K = softmax->k_LK + s * width;
        Floats sums = {};
        int64_t i = 0;
        for (; i + LANES <= width; i += LANES)
            sums = times_plus(load(q_K + i), load(k_K + i), sums);
        float score = sum_of(sums);
        for (; i < width; i++)
            score += q_K[i] * k_K[i];
        scores[s] = score;
        most = score > most ? score : most;
    }
    float fading = exponential(softmax->most_R[head] - most), sum = 0.0f;
#pragma omp simd
    for (int s = 0; s < LANES; s++)
        scores[s] = exponential(scores[s] - most);
    for (int s = 0; s < count; s++)
        sum += scores[s];
    softmax->most_R[head] = most;
    softmax->sum_R[head] = softmax->sum_R[head] * fading + sum;
    int64_t i = 0;
    for (; i + 4 * LANES <= width; i += 4 * LANES) {
        Floats part[4];
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++)
            part[j] = load(out_K + i + j * LANES) * fading;
        for (int s = 0; s < count; s++)
#pragma GCC unroll 4
            for (int j = 0; j < 4; j++)
                part[j] = times_plus(
                    splat(scores[s]), load(softmax->v_LK + s * width + i + j * LANES), part[j]);
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++)
            store(part[j], out_K + i + j * LANES);
    }
    for (; i + LANES <= width; i += LANES) {
        Floats part = load(out_K + i) * fading;
        for (int s = 0; s < count; s++)
            part = times_plus(splat(scores[s]), load(softmax->v_LK + s * width + i), part);
        store(part, out_K + i);
    }
    for (; i < width; i++) {
        float part = out_K[i] * fading;
        for (int s = 0; s < count; s++)
            part += scores[s] * softmax->v_LK[s * width + i];
        out_K[i] = part;
    }
}

static void weigh_all(const Softmax *softmax, int num_heads, int count, int64_t width)
{
    for (int head = 0; head < num_heads; head++)
        if (width == 64)
            weigh(softmax, head, count, 64);
        else if (width == 128)
            weigh(softmax, head, count, 128);
        else
            weigh(softmax, head, count, width);
}

/* Heads of one group, of one row. */
static void attend(const Block *block, const Pass *pass, float *qkv_NX, void *kv_2GSK, int row,
                   int first_head, int num_heads, float *attended_NX, float *memory)
{
    int64_t width = block->head_dim, size = pass->block_size, position = pass->positions_N[row];
    int group = first_head / (block->num_heads / block->num_groups);
    const int64_t *table = pass->tables + pass->table_N[row];
    Softmax softmax = make_softmax(memory, num_heads, width);
    for (int head = 0; head < num_heads; head++) {
        float *q_K = softmax.q_RK + head * width;
        place_head(block, pass, row, block->query_norm_K,
                   head_of(block, qkv_NX, row, first_head + head), q_K);
        for (int64_t i = 0; i < width; i++)
            q_K[i] *= block->scale;
        softmax.most_R[head] = -INFINITY;
        softmax.sum_R[head] = 0.0f;
        memset(softmax.out_RK + head * width, 0, 4 * width);
    }
    int64_t first = block->look_back < 0 ? 0 : position - block->look_back;
    for (int64_t start = first < 0 ? 0 : first, count; start <= position; start += count) {
        int64_t left = position + 1 - start, in_block = size - start % size;
        int64_t slot = table[start / size] * size + start % size;
        count = left < in_block ? left : in_block;
        count = count < LANES ? count : LANES;
        widen(stored(block, pass, kv_2GSK, 0, group, slot), pass->dtype, count * width,
              softmax.k_LK);
        widen(stored(block, pass, kv_2GSK, 1, group, slot), pass->dtype, count * width,
              softmax.v_LK);
        weigh_all(&softmax, num_heads, (int)count, width);
    }
    float *out_X = attended_NX + ((int64_t)row * block->num_heads + first_head) * width;
    for (int head = 0; head < num_heads; head++)
        for (int64_t i = 0; i < width; i++)
            out_X[head * width + i] =
                rounded(softmax.out_RK[head * width + i] / softmax.sum_R[head], pass->dtype);
}

/* A unit is a row and a group; with fewer of them than threads, some of a group's heads. */
static void attend_all(const Block *block, const Pass *pass, float *qkv_NX, void *kv_2GSK,
                       float *attended_NX, float *memory, Thread thread)
{
    int together = block->num_heads / block->num_groups;
    int groups = pass->num_rows * block->num_groups;
    int parts = (thread.count + groups - 1) / groups;
    parts = parts < together ? parts : together;
    Span units = share_of(groups * parts, thread);
    for (int unit = units.first; unit < units.stop; unit++) {
        int row = unit / parts / block->num_groups, group = unit / parts % block->num_groups;
        Span heads = share_of(together, (Thread){unit % parts, parts});
        attend(block, pass, qkv_NX, kv_2GSK, row, group * together + heads.first,
               heads.stop - heads.first, attended_NX, memory);
    }
}

/* ---- one block ---- */

/* Shared by the threads; then what each has for itself. */
typedef struct {
    float *qkv_NX, *attended_NX, *middle_ND, *inner_NF, *own;
    int64_t own_floats;
} Memory;

static int64_t widest(const Block *block)
{
    int64_t width = block->query.num_inputs, heads = block->out.num_inputs;
    int64_t inner = block->down.num_inputs, most = width > heads ? width : heads;
    return most > inner ? most : inner;
}

static Memory lay_out(const Block *block, int num_rows, float *memory)
{
    int64_t heads = block->num_heads + 2 * block->num_groups, rows = num_rows;
    float *attended_NX = memory + padded(rows * heads * block->head_dim);
    float *middle_ND = attended_NX + padded(rows * block->out.num_inputs);
    float *inner_NF = middle_ND + padded(rows * block->query.num_inputs);
    float *own = inner_NF + padded(rows * block->down.num_inputs);
    int64_t own_floats = padded(rows_floats(num_rows, widest(block))) + softmax_floats(block);
    return (Memory){memory, attended_NX, middle_ND, inner_NF, own, own_floats};
}

int64_t pharos_blocks_floats(const Block *blocks, int num_blocks, int num_rows, int num_threads)
{
    int64_t most = 0;
    for (int i = 0; i < num_blocks; i++) {
        Memory memory = lay_out(&blocks[i], num_rows, NULL);
        int64_t floats = (memory.own - (float *)NULL) + num_threads * memory.own_floats;
        most = floats > most ? floats : most;
    }
    return most;
}

static void project_heads(const Block *block, const Rows *rows, int dtype, float *qkv_NX,
                          Thread thread)
{
    const Matrix *matrices[3] = {&block->query, &block->key, &block->value};
    int counts[3] = {num_panels(matrices[0]), num_panels(matrices[1]), num_panels(matrices[2])};
    int to_key = block->query.num_outputs, to_value = to_key + block->key.num_outputs;
    int offsets[3] = {0, to_key, to_value};
    int64_t stride = to_value + block->value.num_outputs;
    Span panels = share_of(counts[0] + counts[1] + counts[2], thread);
    Panel y;
    for (int unit = panels.first; unit < panels.stop; unit++) {
        int which = 0, panel = unit;
        while (panel >= counts[which])
            panel -= counts[which++];
        const Matrix *matrix = matrices[which];
        int count = multiply(matrix, panel, rows, dtype, y);
        int64_t first = offsets[which] + panel * matrix->panel_outputs;
        for (int n = 0; n < rows->num_rows; n++)
            memcpy(qkv_NX + n * stride + first, y[n], 4 * count);
    }
}

static void add_attended(const Block *block, const Rows *rows, const void *x_ND, int dtype,
                         float *middle_ND, Thread thread)
{
    int64_t width = block->out.num_outputs;
    Span panels = share_of(num_panels(&block->out), thread);
    Panel y;
    for (int panel = panels.first; panel < panels.stop; panel++) {
        int count = multiply(&block->out, panel, rows, dtype, y);
        for (int n = 0; n < rows->num_rows; n++) {
            int64_t first = n * width + panel * block->out.panel_outputs;
            float x[WIDEST];
            widen(at(x_ND, dtype, first), dtype, count, x);
            for (int o = 0; o < count; o++)
                middle_ND[first + o] = rounded(x[o] + y[n][o], dtype);
        }
    }
}

static void gate(const Block *block, const Rows *rows, int dtype, float *inner_NF, Thread thread)
{
    int64_t width = block->up.num_outputs;
    Span panels = share_of(num_panels(&block->up), thread);
    Panel gate, up;
    for (int panel = panels.first; panel < panels.stop; panel++) {
        multiply(&block->gate, panel, rows, dtype, gate);
        int count = multiply(&block->up, panel, rows, dtype, up);
        for (int n = 0; n < rows->num_rows; n++) {
            float *inner = inner_NF + n * width + panel * block->up.panel_outputs;
            silu_and_mul(gate[n], up[n], count, dtype, inner);
        }
    }
}

static void add_inner(const Block *block, const Rows *rows, const float *middle_ND, int dtype,
                      void *x_ND, Thread thread)
{
    int64_t width = block->down.num_outputs;
    Span panels = share_of(num_panels(&block->down), thread);
    Panel y;
    for (int panel = panels.first; panel < panels.stop; panel++) {
        int count = multiply(&block->down, panel, rows, dtype, y);
        for (int n = 0; n < rows->num_rows; n++) {
            int64_t first = n * width + panel * block->down.panel_outputs;
            for (int o = 0; o < count; o++)
                y[n][o] += middle_ND[first + o];
            narrow(y[n], count, dtype, (void *)at(x_ND, dtype, first));
        }
    }
}

/* The rows become what the block makes of them: they are read for the last time before the stage
 * that writes them. */
static void through_block(const Block *block, const Pass *pass, void *x_ND, void *kv_2GSK,
                          float *memory)
{
    int dtype = pass->dtype, num_rows = pass->num_rows;
    Memory all = lay_out(block, num_rows, memory);
#pragma omp parallel num_threads(pass->num_threads)
    {
        Thread thread = this_thread();
        float *own = all.own + all.own_floats * thread.number;
        Rows rows = make_rows(own, num_rows, widest(block));
        normed_rows(&rows, x_ND, dtype, block->attention_norm_D, block->attention_eps,
                    &block->query, dtype);
        project_heads(block, &rows, dtype, all.qkv_NX, thread);
#pragma omp barrier
        store_keys(block, pass, all.qkv_NX, kv_2GSK, thread);
        fetch_first(&block->out, thread);
#pragma omp barrier
        attend_all(block, pass, all.qkv_NX, kv_2GSK, all.attended_NX,
                   own + padded(rows_floats(num_rows, widest(block))), thread);
#pragma omp barrier
        copy_rows(&rows, all.attended_NX, &block->out, dtype);
        add_attended(block, &rows, x_ND, dtype, all.middle_ND, thread);
        fetch_first(&block->gate, thread);
#pragma omp barrier
        normed_rows(&rows, all.middle_ND, FLOAT32, block->mlp_norm_D, block->mlp_eps, &block->up,
                    dtype);
        gate(block, &rows, dtype, all.inner_NF, thread);
        fetch_first(&block->down, thread);
#pragma omp barrier
        copy_rows(&rows, all.inner_NF, &block->down, dtype);
        add_inner(block, &rows, all.middle_ND, dtype, x_ND, thread);
    }
}

/* In place. `kvs` are the memories of the blocks' keys and values, where the new ones are stored. */
void pharos_blocks(const Block *blocks, int num_blocks, const Pass *pass, void *x_ND,
                   void *const *kvs, float *memory)
{
    for (int i = 0; i < num_blocks; i++)
        through_block(&blocks[i], pass, x_ND, kvs[i], memory);
}

/* ---- attention of a prompt ---- */

#define KEYS 64          /* of a panel */
#define MOST_QUERIES 64  /* that see it at a time; as many may share a key, and so says Python */

/* Where there are vectors for it and no tiles: torch has kernels of its own for these. */
int pharos_attends(void) { return HAS_BF16_DOTS && !tiles_are_ours; }

/* A panel of keys is as one of weights: a word is two numbers of a key. */
INLINE uint32_t *keys_of(const Prompt *prompt, int64_t group, int64_t panel)
{
    int64_t num_panels = (prompt->num_keys + KEYS - 1) / KEYS;
    return prompt->packed + (group * num_panels + panel) * KEYS * prompt->head_dim;
}

/* So is one of values: a word is one number of two of them, and 64 numbers make a part. */
INLINE uint32_t *values_of(const Prompt *prompt, int64_t group, int64_t panel, int64_t part)
{
    int64_t behind_keys = KEYS / 2 * prompt->head_dim;
    return keys_of(prompt, group, panel) + behind_keys + part * KEYS / 2 * WIDEST;
}

/* Behind the last key all is zero. */
static void pack_panel(const Prompt *prompt, int64_t group, int64_t panel)
{
    int64_t width = prompt->head_dim, first = panel * KEYS;
    int64_t count = at_most(prompt->num_keys - first, KEYS);
    const uint16_t *k_SK = prompt->k_GSK + group * prompt->group_stride + first * width;
    const uint16_t *v_SK = prompt->v_GSK + group * prompt->group_stride + first * width;
    uint32_t *keys = keys_of(prompt, group, panel);
    for (int64_t i = 0; i < width / 2; i++)
        for (int64_t s = 0; s < KEYS; s++) {
            uint32_t word = 0;
            if (s < count)
                memcpy(&word, k_SK + s * width + 2 * i, 4);
            keys[i * KEYS + s] = word;
        }
    for (int64_t part = 0; part < width / WIDEST; part++)
        for (int64_t s = 0; s < KEYS; s += 2) {
            const uint16_t *one = v_SK + s * width + part * WIDEST, *two = one + width;
            uint32_t *values = values_of(prompt, group, panel, part) + s / 2 * WIDEST;
            for (int64_t i = 0; i < WIDEST; i++) {
                uint32_t low = s < count ? one[i] : 0, high = s + 1 < count ? two[i] : 0;
                values[i] = low | high << 16;
            }
        }
}

/* Rows in bfloat16 with such a panel. */
INLINE void dots_of_rows(const uint32_t *words, int64_t num_inputs, uint16_t *h_NI, int num_rows,
                         float (*y)[WIDEST])
{
    Matrix panel = {.weight = words, .layout = BF16_PANELS, .num_inputs = (int32_t)num_inputs,
                    .padded_inputs = (int32_t)num_inputs, .panel_outputs = WIDEST};
    Rows rows = {.h_NI = h_NI, .stride = num_inputs, .num_rows = num_rows};
    multiply_in_dots(&panel, 0, &rows, y);
}

/* Scores become probabilities, but for the sum, of the keys from `low` to before `high`; what came
 * before counts by the factor that is returned. */
INLINE float weigh_panel(float *scores, int64_t low, int64_t high, float scale, float *most,
                         float *sum, uint16_t *probs)
{
    if (low >= high) {
        memset(probs, 0, KEYS * sizeof *probs);
        return 1.0f;
    }
    float top = *most, added = 0.0f;
#pragma omp simd reduction(max : top)
    for (int64_t s = 0; s < KEYS; s++) {
        scores[s] = s >= low && s < high ? scores[s] * scale : -INFINITY;
        top = scores[s] > top ? scores[s] : top;
    }
    float shift = top == -INFINITY ? 0.0f : top;
#pragma omp simd reduction(+ : added)
    for (int64_t s = 0; s < KEYS; s++) {
        scores[s] = exponential(scores[s] - shift);
        added += scores[s];
    }
    narrow(scores, KEYS, BFLOAT16, probs);
    float fading = *most == top ? 1.0f : exponential(*most - top);
    *sum = *sum * fading + added;
    *most = top;
    return fading;
}

/* Some tokens' heads of a group, panel by panel, the softmax going along. */
static void attend_together(const Prompt *prompt, int group, int64_t first, int64_t count)
{
    int64_t width = prompt->head_dim, together = prompt->num_heads / prompt->num_groups;
    int64_t past = prompt->num_keys - prompt->num_tokens, back = prompt->look_back;
    int64_t stride = prompt->num_heads * width, of_group = group * together * width;
    int num_rows = (int)(count * together);
    uint16_t q_NK[MOST_QUERIES * width], probs_NS[MOST_QUERIES * KEYS];
    float out_NK[MOST_QUERIES * width], most_N[MOST_QUERIES], sum_N[MOST_QUERIES];
    float fading_N[MOST_QUERIES], y[MOST_QUERIES][WIDEST];
    for (int64_t t = 0; t < count; t++)
        memcpy(q_NK + t * together * width, prompt->q_THK + (first + t) * stride + of_group,
               2 * together * width);
    memset(out_NK, 0, 4 * num_rows * width);
    for (int n = 0; n < num_rows; n++)
        most_N[n] = -INFINITY, sum_N[n] = 0.0f;
    int64_t earliest = back < 0 || past + first < back ? 0 : past + first - back;
    for (int64_t panel = earliest / KEYS; panel * KEYS < past + first + count; panel++) {
        dots_of_rows(keys_of(prompt, group, panel), width, q_NK, num_rows, y);
        for (int n = 0; n < num_rows; n++) {
            int64_t own = past + first + n / together - panel * KEYS; /* of the panel's keys */
            int64_t low = back < 0 || own < back ? 0 : own - back, high = at_most(own + 1, KEYS);
            fading_N[n] = weigh_panel(y[n], low, high, prompt->scale, &most_N[n], &sum_N[n],
                                      probs_NS + n * KEYS);
        }
        for (int64_t part = 0; part < width / WIDEST; part++) {
            dots_of_rows(values_of(prompt, group, panel, part), KEYS, probs_NS, num_rows, y);
            for (int n = 0; n < num_rows; n++) {
                float *out = out_NK + n * width + part * WIDEST;
                for (int64_t i = 0; i < WIDEST; i += LANES)
                    store(times_plus(load(out + i), splat(fading_N[n]), load(y[n] + i)), out + i);
            }
        }
    }
    for (int n = 0; n < num_rows; n++) {
        for (int64_t i = 0; i < width; i++)
            out_NK[n * width + i] /= sum_N[n];
        int64_t index = (first + n / together) * stride + of_group + n % together * width;
        narrow(out_NK + n * width, width, BFLOAT16, prompt->out_THK + index);
    }
}

/* Flash attention (Dao et al. 2022, arXiv:2205.14135). The last tokens, which see most, come first. */
void pharos_attend(const Prompt *prompt)
{
    int64_t num_panels = (prompt->num_keys + KEYS - 1) / KEYS, groups = prompt->num_groups;
    int64_t at_a_time = MOST_QUERIES / (prompt->num_heads / groups);
    int64_t num_tiles = (prompt->num_tokens + at_a_time - 1) / at_a_time;
#pragma omp parallel num_threads(prompt->num_threads)
    {
#pragma omp for schedule(static)
        for (int64_t unit = 0; unit < groups * num_panels; unit++)
            pack_panel(prompt, unit / num_panels, unit % num_panels);
#pragma omp for schedule(dynamic) nowait
        for (int64_t unit = 0; unit < groups * num_tiles; unit++) {
            int64_t first = (num_tiles - 1 - unit / groups) * at_a_time;
            int64_t left = prompt->num_tokens - first;
            attend_together(prompt, (int)(unit % groups), first, at_most(left, at_a_time));
        }
    }
}

/* ---- the next token ---- */

#define AMONG 64 /* tokens that are first looked at as one */

/* The scores of a row: V of them, and a mask of W words, whose bits are set where a token is legal, or
 * NULL. */
typedef struct {
    const void *scores_V;
    const uint32_t *mask_W;
    int64_t count;
    int32_t dtype;
} Scores;

/* Those of a block; minus infinity of what is not legal, and behind the last. */
INLINE void legal_scores(const Scores *of, int64_t block, float *scores)
{
    int64_t first = block * AMONG, count = at_most(of->count - first, AMONG);
    widen(at(of->scores_V, of->dtype, first), of->dtype, count, scores);
    for (int64_t i = count; i < AMONG; i++)
        scores[i] = -INFINITY;
    for (int64_t i = 0; of->mask_W && i < count; i += 32) {
        uint32_t legal = of->mask_W[(first + i) / 32];
#pragma omp simd
        for (int j = 0; j < 32; j++)
            scores[i + j] = legal >> j & 1 ? scores[i + j] : -INFINITY;
    }
}

/* The largest score, and the first token that has it; `token` is -1 where a score is no number or none
 * is finite. */
INLINE float likeliest(const Scores *of, int64_t *token)
{
    float scores[AMONG], most = -INFINITY;
    int64_t place = 0;
    int32_t is_broken = 0;
    for (int64_t block = 0; block * AMONG < of->count; block++) {
        legal_scores(of, block, scores);
        float own = -INFINITY;
#pragma omp simd reduction(max : own) reduction(| : is_broken)
        for (int i = 0; i < AMONG; i++) {
            is_broken |= scores[i] != scores[i];
            own = scores[i] > own ? scores[i] : own;
        }
        place = own > most ? block : place;
        most = own > most ? own : most;
    }
    *token = -1;
    if (is_broken || most == -INFINITY || most == INFINITY)
        return most;
    legal_scores(of, place, scores);
    for (int i = AMONG - 1; i >= 0; i--)
        *token = scores[i] == most ? place * AMONG + i : *token;
    return most;
}

/* What the tokens of a block weigh beside the likeliest, at a temperature. */
INLINE void weights_of(const Scores *of, int64_t block, float most, float coldness, float *weights)
{
    legal_scores(of, block, weights);
#pragma omp simd
    for (int i = 0; i < AMONG; i++)
        weights[i] = exponential((weights[i] - most) * coldness);
}

INLINE float sum_of_block(const float *weights)
{
    Floats sums = load(weights);
    for (int i = LANES; i < AMONG; i += LANES)
        sums += load(weights + i);
    return sum_of(sums);
}

/* Where the cumulative weights pass `uniform` of them all: among blocks, then in one. */
static int64_t drawn(const Scores *of, float most, float coldness, double uniform, double *sums_N)
{
    float weights[AMONG];
    int64_t num_blocks = (of->count + AMONG - 1) / AMONG, block = 0;
    double sum = 0.0, inside = 0.0;
    for (int64_t i = 0; i < num_blocks; i++) {
        weights_of(of, i, most, coldness, weights);
        sums_N[i] = sum += sum_of_block(weights);
    }
    double target = fmin(uniform * sum, nextafter(sum, 0.0));
    while (sums_N[block] <= target)
        block++;
    target -= block ? sums_N[block - 1] : 0.0;
    weights_of(of, block, most, coldness, weights);
    int last = 0; /* that has a weight: rounding may have put the target behind it */
    for (int i = 0; i < AMONG; i++) {
        inside += weights[i];
        last = weights[i] > 0.0f ? i : last;
        if (inside > target)
            return block * AMONG + i;
    }
    return block * AMONG + last;
}

/* Of each row the likeliest token, or one drawn where its temperature is not 0; -1 where scores are no
 * numbers. `memory` has as many numbers for each thread as a row has begun blocks of 64. */
void pharos_choose(const void *scores_BV, const uint32_t *mask_BW, const float *temperature_B,
                   const double *uniform_B, int64_t *token_B, int num_rows, int64_t vocab_size,
                   int dtype, int num_threads, double *memory)
{
    int64_t num_blocks = (vocab_size + AMONG - 1) / AMONG, num_words = (vocab_size + 31) / 32;
#pragma omp parallel for schedule(dynamic) num_threads(num_threads) if (num_rows > 1)
    for (int b = 0; b < num_rows; b++) {
        const void *scores_V = at(scores_BV, dtype, b * vocab_size);
        Scores of = {scores_V, mask_BW ? mask_BW + b * num_words : NULL, vocab_size, dtype};
        float most = likeliest(&of, &token_B[b]);
        double *sums_N = memory + omp_get_thread_num() * num_blocks;
        if (token_B[b] >= 0 && temperature_B[b] > 0.0f)
            token_B[b] = drawn(&of, most, 1.0f / temperature_B[b], uniform_B[b], sums_N);
    }
}

/* For whoever mirrors these structures: a Matrix, a Block, a Pass, a Prompt. */
int pharos_size_of(int which)
{
    const int sizes[] = {sizeof(Matrix), sizeof(Block), sizeof(Pass), sizeof(Prompt)};
    return sizes[which];
}
