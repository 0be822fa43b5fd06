/* Predictions of rows: sums of the leaves of tree ensembles, and outputs of networks; and how well
   splits part the rows that trees are grown on.

   instruction_sets.h includes this file once for every instruction set, with `SET` as its name.
   Python modules beside it have the same structs.

   Reads are in bounds because Python checks what it hands over once, when an ensemble is read or
   made: features of splits are below `n_features`, children lie behind their parent in the same
   tree, and masks hold a place for every answer. Layers and tables of networks are laid out by
   network.py, from arrays whose shapes folding and layout have checked. Of the rows, trees.py and
   network.py check the shape at every call; their values decide between checked places alone, NaN
   included, and codes past a table count as its last. */

#ifndef TABWRIGHT_PREDICTION_KERNELS
#define TABWRIGHT_PREDICTION_KERNELS

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__GNUC__) && (defined(__x86_64__) || defined(__i386__))
#include <immintrin.h>
#elif defined(__GNUC__) && defined(__aarch64__)
#include <arm_neon.h>
#endif

/* Rows that go through all trees together: what is kept of them stays in the first-level cache. */
enum { ROWS = 64 };

/* What trees of every form have in common; `baseline`: of each output. */
typedef struct {
    int64_t n_features, n_outputs, n_trees;
    const double *baseline;
} ensemble;

/* tree_ensemble.py, `TreeEnsemble`. */
typedef struct {
    ensemble e;
    const int64_t *roots;
    const int32_t *feature;
    const float *threshold;
    const int32_t *right;
    const uint8_t *missing_left;
    const double *value;
} node_trees;

/* tree_ensemble.py, `ObliviousTrees`. */
typedef struct {
    ensemble e;
    int64_t depth;
    const int32_t *feature;
    const float *threshold;
    const double *value;
} oblivious_trees;

/* tree_ensemble.py, `_LeafMasks.in_c`: `starts` and `first_pair` have one entry more, their end. */
typedef struct {
    ensemble e;
    int64_t n_asked;
    const int32_t *asked;
    const float *thresholds;
    const int64_t *starts;
    const void *masks;
    const int64_t *pair_masks;
    const int64_t *pair_feature;
    const int64_t *first_pair;
    const int64_t *leaf_start;
    const double *leaf_value;
} mask_trees;

/* Networks of one architecture, and how rows become their inputs (encoding/layout.py). A layer is
   its weights, in panels of PANEL units (panels x inputs x PANEL), then its biases; `offsets` says
   where it begins, member by member. `residual`: hidden layers are pairs that a sum goes around. */
typedef struct {
    int64_t n_members, n_layers, residual, width;
    const int64_t *n_inputs, *n_units;
    const int64_t *offsets;
    const float *parameters;
    int64_t n_numeric, n_codes, n_encoded, first_value, smooth, fill, n_bins, n_missing, n_cycles;
    const int64_t *bin_source;
    const float *bin_left, *bin_inverse;
    const int64_t *missing;
    /* Code column, table, codes and width of each cycle. */
    const int64_t *cycle_column;
    const float *const *cycle_table;
    const int64_t *cycle_codes, *cycle_width;
    /* Tables of what codes add to the first layer; columns and strides of each begin at `group`,
       which has one entry more, its end. A row has `table_units` for each member. */
    int64_t n_groups, table_units;
    const int64_t *group, *column, *stride;
    const float *const *table;
    const int64_t *table_codes;
} network;

/* A leaf of a level whose rows are parted: of its rows the sums of gradients and of weights, of
   those below the split the same, and what the leaf adds to the gain of the split. */
typedef struct {
    double gradient, weight, below, weight_below, gain;
} parted_leaf;

/* Units whose weights lie together. */
enum { PANEL = 8 };

/* Rows that go through one member's layers before the next member's: its weights stay near. */
enum { CHUNK = 256 };

/* Up to so many rows go one by one, with units in the lanes of a vector; the others lie in them. */
enum { FEW = 3 };

typedef struct {
    const char *name;
    void *address;
} entry;

#define add_baseline IN_SET(add_baseline)
#define add_masked_32 IN_SET(add_masked_32)
#define add_masked_64 IN_SET(add_masked_64)
#define block_rows IN_SET(block_rows)
#define choose_splits IN_SET(choose_splits)
#define find_places IN_SET(find_places)
#define functions IN_SET(functions)
#define leaf_gain IN_SET(leaf_gain)
#define lowest_bit IN_SET(lowest_bit)
#define sum_masked_32 IN_SET(sum_masked_32)
#define sum_masked_64 IN_SET(sum_masked_64)
#define sum_nodes IN_SET(sum_nodes)
#define sum_oblivious IN_SET(sum_oblivious)
#define encode_strip IN_SET(encode_strip)
#define fill_strip IN_SET(fill_strip)
#define network_scores IN_SET(network_scores)
#define row_layer IN_SET(row_layer)
#define strip_layer IN_SET(strip_layer)

#endif

/* The position of the lowest bit that is set; there is one. */
static inline int64_t lowest_bit(uint64_t bits)
{
#if defined(__GNUC__)
    return __builtin_ctzll(bits);
#else
    int64_t position = 0;
    for (; !(bits & 1); bits >>= 1) position++;
    return position;
#endif
}

/* Rows of a block that begins at `start`. */
static inline int64_t block_rows(int64_t n_rows, int64_t start)
{
    return n_rows - start < ROWS ? n_rows - start : ROWS;
}

/* The baseline comes last, as in NumPy: the same bits. */
static void add_baseline(const ensemble *e, int64_t n_rows, double *sums)
{
    for (int64_t r = 0; r < n_rows; r++)
        for (int64_t k = 0; k < e->n_outputs; k++) sums[r * e->n_outputs + k] += e->baseline[k];
}

/* The functions below fill `sums`, rows x outputs, from `features`, rows x features. `work` has
   room for ROWS numbers of four bytes for each feature. Trees are added in their order. */

/* From root to leaf, split by split. */
static void sum_nodes(const node_trees *t, int64_t n_rows, const float *features, double *sums,
                      void *work)
{
    (void)work;
    const int64_t n_outputs = t->e.n_outputs;
    memset(sums, 0, (size_t)(n_rows * n_outputs) * sizeof *sums);
    for (int64_t start = 0; start < n_rows; start += ROWS) {
        const int64_t n = block_rows(n_rows, start);
        const float *rows = features + start * t->e.n_features;
        double *own = sums + start * n_outputs;
        for (int64_t tree = 0; tree < t->e.n_trees; tree++)
            for (int64_t r = 0; r < n; r++) {
                int64_t node = t->roots[tree];
                while (t->right[node]) {
                    const float cell = rows[r * t->e.n_features + t->feature[node]];
                    const int left =
                        cell <= t->threshold[node] || (cell != cell && t->missing_left[node]);
                    node = left ? node + 1 : t->right[node];
                }
                own[r * n_outputs + tree % n_outputs] += t->value[node];
            }
        add_baseline(&t->e, n, own);
    }
}

/* Level by level: the answers are the bits of the leaf's number. */
static void sum_oblivious(const oblivious_trees *t, int64_t n_rows, const float *features,
                          double *sums, void *work)
{
    const int64_t n_features = t->e.n_features, n_outputs = t->e.n_outputs;
    const int64_t n_leaves = (int64_t)1 << t->depth;
    float *columns = work;
    memset(sums, 0, (size_t)(n_rows * n_outputs) * sizeof *sums);
    for (int64_t start = 0; start < n_rows; start += ROWS) {
        const int64_t n = block_rows(n_rows, start);
        const float *rows = features + start * n_features;
        double *own = sums + start * n_outputs;
        for (int64_t f = 0; f < n_features; f++)
            for (int64_t r = 0; r < n; r++) columns[f * ROWS + r] = rows[r * n_features + f];
        for (int64_t tree = 0; tree < t->e.n_trees; tree++) {
            const int32_t *asked = t->feature + tree * t->depth;
            const float *thresholds = t->threshold + tree * t->depth;
            const double *value = t->value + tree * n_leaves * n_outputs;
            int32_t leaf[ROWS] = {0};
            for (int64_t level = 0; level < t->depth; level++) {
                const float *column = columns + asked[level] * ROWS;
                const int32_t bit = (int32_t)1 << level;
                for (int64_t r = 0; r < n; r++) leaf[r] |= column[r] > thresholds[level] ? bit : 0;
            }
            for (int64_t r = 0; r < n; r++)
                for (int64_t k = 0; k < n_outputs; k++)
                    own[r * n_outputs + k] += value[leaf[r] * n_outputs + k];
        }
        add_baseline(&t->e, n, own);
    }
}

/* Of both sides, the squared sum of gradients by weight and penalty: one division for two. */
static inline double leaf_gain(const parted_leaf *leaf, double penalty)
{
    const double above = leaf->gradient - leaf->below;
    const double weight_below = leaf->weight_below + penalty;
    const double weight_above = leaf->weight - leaf->weight_below + penalty;
    return (leaf->below * leaf->below * weight_above + above * above * weight_below) /
           (weight_below * weight_above);
}

/* Split by split, the columns and bins behind which all leaves of a level are parted, and so the
   leaf of each row. A column's rows move below the split one by one, in the order of their bins, and
   each changes what its own leaf gains: the time does not depend on bins and leaves. `bins` and
   `order`: columns x rows; `tried` and `noise_at`: levels x tried; `rows`: a gradient and a weight
   each; `leaf`: 0 at first; `leaves`: memory for twice as many as the last level parts. Scores are
   square roots of gains, and noise. Additions are in the order of NumPy's. */
static void choose_splits(int64_t n_rows, int64_t n_levels, int64_t n_tried, const uint8_t *bins,
                          const int32_t *order, const int64_t *n_bins, const int64_t *tried,
                          const double *rows, double penalty, const double *noise,
                          const int64_t *noise_at, double scale, void *leaves, uint8_t *leaf,
                          int64_t *column, int64_t *place)
{
    for (int64_t level = 0; level < n_levels; level++) {
        const int64_t n_leaves = (int64_t)1 << level;
        parted_leaf *whole = leaves, *parted = whole + n_leaves;
        memset(whole, 0, (size_t)n_leaves * sizeof *whole);
        for (int64_t r = 0; r < n_rows; r++) {
            whole[leaf[r]].gradient += rows[2 * r];
            whole[leaf[r]].weight += rows[2 * r + 1];
        }
        double unparted = 0.0, best = -HUGE_VAL;
        for (int64_t l = 0; l < n_leaves; l++) {
            whole[l].gain = leaf_gain(whole + l, penalty);
            unparted += whole[l].gain;
        }
        for (int64_t k = 0; k < n_tried; k++) {
            const int64_t own = tried[level * n_tried + k];
            const uint8_t *bin = bins + own * n_rows;
            const int32_t *next = order + own * n_rows;
            const double *own_noise = noise + noise_at[level * n_tried + k];
            double gain = unparted;
            memcpy(parted, whole, (size_t)n_leaves * sizeof *parted);
            for (int64_t i = 0, b = 0; b < n_bins[own] - 1; b++) {
                for (; i < n_rows && bin[next[i]] == b; i++) {
                    parted_leaf *l = parted + leaf[next[i]];
                    const double before = l->gain;
                    l->below += rows[2 * next[i]];
                    l->weight_below += rows[2 * next[i] + 1];
                    l->gain = leaf_gain(l, penalty);
                    gain += l->gain - before;
                }
                const double score = sqrt(gain > 0.0 ? gain : 0.0) + scale * own_noise[b];
                if (score > best) {
                    best = score;
                    column[level] = own;
                    place[level] = b;
                }
            }
        }
        const uint8_t *bin = bins + column[level] * n_rows;
        for (int64_t r = 0; r < n_rows; r++)
            leaf[r] = (uint8_t)(leaf[r] | (bin[r] > place[level]) << level);
    }
}

/* Places of values among the thresholds of their feature: how many are below; of NaN, one more
   than there are thresholds. */
static void find_places(const mask_trees *t, int64_t n_rows, const float *rows, int32_t *places)
{
    for (int64_t f = 0; f < t->n_asked; f++) {
        const float *thresholds = t->thresholds + t->starts[f];
        const int32_t n = (int32_t)(t->starts[f + 1] - t->starts[f]);
        int32_t *place = places + f * ROWS;
        float x[ROWS];
        for (int64_t r = 0; r < n_rows; r++) {
            x[r] = rows[r * t->e.n_features + t->asked[f]];
            place[r] = 0;
        }
        for (int32_t left = n, half; left > 0; left -= half) {
            half = (left + 1) / 2;
            for (int64_t r = 0; r < n_rows; r++)
                place[r] += thresholds[place[r] + half - 1] < x[r] ? half : 0;
        }
        for (int64_t r = 0; r < n_rows; r++) place[r] = x[r] == x[r] ? place[r] : n + 1;
    }
}

/* Add the leaves of a block of rows: of those that the answers leave open, the first. */
#define DEFINE_ADD_MASKED(name, mask)                                                             \
    static void name(const mask_trees *t, int64_t n_rows, const int32_t *places, double *sums)    \
    {                                                                                             \
        const int64_t n_outputs = t->e.n_outputs;                                                 \
        for (int64_t tree = 0; tree < t->e.n_trees; tree++) {                                     \
            const double *leaves = t->leaf_value + t->leaf_start[tree];                           \
            mask open[ROWS];                                                                      \
            for (int64_t r = 0; r < n_rows; r++) open[r] = (mask)-1;                              \
            for (int64_t pair = t->first_pair[tree]; pair < t->first_pair[tree + 1]; pair++) {    \
                const mask *masks = (const mask *)t->masks + t->pair_masks[pair];                 \
                const int32_t *place = places + t->pair_feature[pair] * ROWS;                     \
                for (int64_t r = 0; r < n_rows; r++) open[r] &= masks[place[r]];                  \
            }                                                                                     \
            double *own = sums + tree % n_outputs;                                                \
            for (int64_t r = 0; r < n_rows; r++)                                                  \
                own[r * n_outputs] += leaves[lowest_bit(open[r])];                                \
        }                                                                                         \
    }
DEFINE_ADD_MASKED(add_masked_32, uint32_t)
DEFINE_ADD_MASKED(add_masked_64, uint64_t)

/* By the leaves that answers leave open. */
#define DEFINE_SUM_MASKED(name, add_masked)                                                       \
    static void name(const mask_trees *t, int64_t n_rows, const float *features, double *sums,    \
                     void *work)                                                                  \
    {                                                                                             \
        memset(sums, 0, (size_t)(n_rows * t->e.n_outputs) * sizeof *sums);                        \
        for (int64_t start = 0; start < n_rows; start += ROWS) {                                  \
            const int64_t n = block_rows(n_rows, start);                                          \
            double *own = sums + start * t->e.n_outputs;                                          \
            find_places(t, n, features + start * t->e.n_features, work);                          \
            add_masked(t, n, work, own);                                                          \
            add_baseline(&t->e, n, own);                                                          \
        }                                                                                         \
    }
DEFINE_SUM_MASKED(sum_masked_32, add_masked_32)
DEFINE_SUM_MASKED(sum_masked_64, add_masked_64)

#if SET_LANES

/* Rows of a strip: two vectors. Units that are summed at once: their sums stay in registers. */
#define STRIP (2 * SET_LANES)
#if SET_LANES == 16
#define VECTOR __m512
#define LOAD _mm512_load_ps
#define STORE _mm512_store_ps
#define ALL _mm512_set1_ps
#define ADD _mm512_add_ps
#define LARGER _mm512_max_ps
#define MULTIPLY_ADD _mm512_fmadd_ps
#define GROUP 8
#elif SET_LANES == 8
#define VECTOR __m256
#define LOAD _mm256_load_ps
#define STORE _mm256_store_ps
#define ALL _mm256_set1_ps
#define ADD _mm256_add_ps
#define LARGER _mm256_max_ps
#define MULTIPLY_ADD _mm256_fmadd_ps
#define GROUP 4
#else
#define VECTOR float32x4_t
#define LOAD vld1q_f32
#define STORE vst1q_f32
#define ALL vdupq_n_f32
#define ADD vaddq_f32
#define LARGER(a, b) vbslq_f32(vcgtq_f32(a, b), a, b)
#define MULTIPLY_ADD(a, b, c) vfmaq_f32(c, a, b)
#define GROUP 8
#endif

/* What one row is multiplied by: units of a panel, anywhere in memory. */
#if SET_LANES >= 8
#define ROW_LANES 8
#define ROW_VECTOR __m256
#define ROW_LOAD _mm256_loadu_ps
#define ROW_STORE _mm256_storeu_ps
#define ROW_ALL _mm256_set1_ps
#define ROW_ADD _mm256_add_ps
#define ROW_LARGER _mm256_max_ps
#define ROW_MULTIPLY_ADD _mm256_fmadd_ps
#else
#define ROW_LANES SET_LANES
#define ROW_VECTOR VECTOR
#define ROW_LOAD LOAD
#define ROW_STORE STORE
#define ROW_ALL ALL
#define ROW_ADD ADD
#define ROW_LARGER LARGER
#define ROW_MULTIPLY_ADD MULTIPLY_ADD
#endif

/* A row's output of a unit is one sum, input after input, each product fused into it; then the
   bias, then `beside`. `strip_layer` and `row_layer` do the same for every row and unit, in another
   lane: no result depends on the rows beside it. Of NaN the larger is the second operand. */

/* The outputs of a strip, units x STRIP, of inputs x STRIP. `beside`: added, or NULL. */
static void strip_layer(const float *weights, int64_t n_inputs, int64_t n_units, const float *x,
                        const float *beside, int rectified, float *out)
{
    const float *bias = weights + (n_units + PANEL - 1) / PANEL * PANEL * n_inputs;
    for (int64_t first = 0; first < n_units; first += GROUP) {
        const float *w = weights + first / PANEL * PANEL * n_inputs + first % PANEL;
        VECTOR sums[GROUP][2];
        for (int g = 0; g < GROUP; g++) sums[g][0] = sums[g][1] = ALL(0.0f);
        for (int64_t k = 0; k < n_inputs; k++) {
            const VECTOR x0 = LOAD(x + k * STRIP), x1 = LOAD(x + k * STRIP + SET_LANES);
#pragma GCC unroll 8
            for (int g = 0; g < GROUP; g++) {
                const VECTOR weight = ALL(w[k * PANEL + g]);
                sums[g][0] = MULTIPLY_ADD(weight, x0, sums[g][0]);
                sums[g][1] = MULTIPLY_ADD(weight, x1, sums[g][1]);
            }
        }
        for (int g = 0; g < GROUP && first + g < n_units; g++)
            for (int half = 0; half < 2; half++) {
                const int64_t place = (first + g) * STRIP + half * SET_LANES;
                VECTOR sum = ADD(sums[g][half], ALL(bias[first + g]));
                if (beside) sum = ADD(sum, LOAD(beside + place));
                STORE(out + place, rectified ? LARGER(ALL(0.0f), sum) : sum);
            }
    }
}

/* The same for one row: `out` has room for whole panels. */
static void row_layer(const float *weights, int64_t n_inputs, int64_t n_units, const float *x,
                      const float *beside, int rectified, float *out)
{
    enum { AT_ONCE = 8, PIECES = PANEL / ROW_LANES };
    const int64_t n_panels = (n_units + PANEL - 1) / PANEL, size = n_inputs * PANEL;
    const float *bias = weights + n_panels * size;
    for (int64_t first = 0; first < n_panels; first += AT_ONCE) {
        const int64_t n = n_panels - first < AT_ONCE ? n_panels - first : AT_ONCE;
        const float *w = weights + first * size;
        ROW_VECTOR sums[AT_ONCE * PIECES];
        for (int i = 0; i < AT_ONCE * PIECES; i++) sums[i] = ROW_ALL(0.0f);
        if (n == AT_ONCE)
            for (int64_t k = 0; k < n_inputs; k++) {
                const ROW_VECTOR input = ROW_ALL(x[k]);
#pragma GCC unroll 16
                for (int i = 0; i < AT_ONCE * PIECES; i++) {
                    const float *own = w + i / PIECES * size + i % PIECES * ROW_LANES;
                    sums[i] = ROW_MULTIPLY_ADD(ROW_LOAD(own + k * PANEL), input, sums[i]);
                }
            }
        else
            for (int64_t i = 0; i < n * PIECES; i++) {
                const float *own = w + i / PIECES * size + i % PIECES * ROW_LANES;
                for (int64_t k = 0; k < n_inputs; k++)
                    sums[i] = ROW_MULTIPLY_ADD(ROW_LOAD(own + k * PANEL), ROW_ALL(x[k]), sums[i]);
            }
        for (int64_t i = 0; i < n * PIECES; i++) {
            const int64_t place = first * PANEL + i * ROW_LANES;
            ROW_VECTOR sum = ROW_ADD(sums[i], ROW_LOAD(bias + place));
            if (beside) sum = ROW_ADD(sum, ROW_LOAD(beside + place));
            if (rectified) sum = ROW_LARGER(ROW_ALL(0.0f), sum);
            ROW_STORE(out + place, sum);
        }
    }
}

/* Inputs x `lanes` of at most so many rows; places without a row become zeros of their own. `raw`:
   room for the numbers. */
static void encode_strip(const network *n, int64_t n_rows, int64_t lanes, const float *numeric,
                         const int32_t *codes, float *raw, float *x)
{
    for (int64_t j = 0; j < n->n_numeric; j++)
        for (int64_t r = 0; r < lanes; r++)
            raw[j * lanes + r] = r < n_rows ? numeric[r * n->n_numeric + j] : 0.0f;
    float *missing = x + (n->n_numeric - n->first_value + n->n_bins) * lanes;
    for (int64_t i = 0; i < n->n_missing; i++)
        for (int64_t r = 0; r < lanes; r++) {
            const float cell = raw[n->missing[i] * lanes + r];
            missing[i * lanes + r] = cell != cell ? 1.0f : 0.0f;
        }
    if (n->fill)
        for (int64_t i = 0; i < n->n_numeric * lanes; i++) raw[i] = raw[i] == raw[i] ? raw[i] : 0.0f;
    for (int64_t j = n->first_value; j < n->n_numeric; j++, x += lanes)
        for (int64_t r = 0; r < lanes; r++) {
            const float cell = raw[j * lanes + r];
            const float third = cell * (1.0f / 3.0f);
            x[r] = n->smooth && j < n->n_encoded ? cell / sqrtf(third * third + 1.0f) : cell;
        }
    for (int64_t i = 0; i < n->n_bins; i++, x += lanes)
        for (int64_t r = 0; r < lanes; r++) {
            const float cell = raw[n->bin_source[i] * lanes + r];
            const float share = (cell - n->bin_left[i]) * n->bin_inverse[i];
            x[r] = share < 0.0f ? 0.0f : share > 1.0f ? 1.0f : share;
        }
    x += n->n_missing * lanes;
    for (int64_t i = 0; i < n->n_cycles; i++)
        for (int64_t j = 0; j < n->cycle_width[i]; j++, x += lanes)
            for (int64_t r = 0; r < lanes; r++) {
                int64_t code = r < n_rows ? codes[r * n->n_codes + n->cycle_column[i]] : 0;
                code = code < 0 ? 0 : code < n->cycle_codes[i] ? code : n->cycle_codes[i] - 1;
                x[r] = n->cycle_table[i][code * n->cycle_width[i] + j];
            }
}

/* What the codes of rows add to the first layer of a member, units x `lanes`; `sum`: room for the
   units of a row. */
static void fill_strip(const network *n, int64_t member, int64_t n_rows, int64_t lanes,
                       const int32_t *codes, float *sum, float *out)
{
    const int64_t n_units = n->n_units[0];
    for (int64_t r = 0; r < lanes; r++) {
        for (int64_t g = 0; g < n->n_groups; g++) {
            int64_t row = 0;
            if (r < n_rows)
                for (int64_t i = n->group[g]; i < n->group[g + 1]; i++)
                    row += codes[r * n->n_codes + n->column[i]] * n->stride[i];
            row = row < 0 ? 0 : row < n->table_codes[g] ? row : n->table_codes[g] - 1;
            const float *own = n->table[g] + (row * n->n_members + member) * n->table_units;
            if (g == 0)
                memcpy(sum, own, (size_t)n_units * sizeof *sum);
            else
                for (int64_t u = 0; u < n_units; u++) sum[u] += own[u];
        }
        for (int64_t u = 0; u < n_units; u++) out[u * lanes + r] = sum[u];
    }
}

/* Every member's outputs, outputs x members x `stride`, of rows of numbers and of codes. `work` has
   room for CHUNK x inputs, and for (numbers + 4 widths) x STRIP and a width, and 64 bytes. */
static void network_scores(const network *n, int64_t n_rows, const float *numeric,
                           const int32_t *codes, float *work, double *scores, int64_t stride)
{
    const int64_t lanes = n_rows <= FEW ? 1 : STRIP, chunk = n_rows <= FEW ? 1 : CHUNK;
    const int64_t size = n->n_inputs[0] * lanes, buffer = n->width * lanes;
    void (*layer)(const float *, int64_t, int64_t, const float *, const float *, int, float *) =
        n_rows <= FEW ? row_layer : strip_layer;
    float *inputs = (float *)(((uintptr_t)work + 63) / 64 * 64);
    float *raw = inputs + n->n_inputs[0] * CHUNK, *sum = raw + n->n_numeric * STRIP;
    float *hidden = sum + (n->width + 15) / 16 * 16;
    for (int64_t start = 0; start < n_rows; start += chunk) {
        const int64_t end = n_rows - start < chunk ? n_rows : start + chunk;
        for (int64_t row = start; row < end; row += lanes)
            encode_strip(n, end - row < lanes ? end - row : lanes, lanes,
                         numeric + row * n->n_numeric, codes + row * n->n_codes, raw,
                         inputs + (row - start) / lanes * size);
        for (int64_t m = 0; m < n->n_members; m++)
            for (int64_t row = start; row < end; row += lanes) {
                const int64_t own = end - row < lanes ? end - row : lanes;
                const int64_t *offset = n->offsets + m * n->n_layers;
                const int64_t last = n->n_layers - 1;
                float *now = hidden, *spare = now + buffer, *after = spare + buffer;
                float *beside = n->n_groups ? after + buffer : NULL;
                if (beside) fill_strip(n, m, own, lanes, codes + row * n->n_codes, sum, beside);
                layer(n->parameters + offset[0], n->n_inputs[0], n->n_units[0],
                      inputs + (row - start) / lanes * size, beside, last > 0, now);
                for (int64_t l = 1; l <= last; l++) {
                    const int closes = n->residual && l < last && l % 2 == 0;
                    float *to = closes ? after : spare;
                    layer(n->parameters + offset[l], n->n_inputs[l], n->n_units[l],
                          closes ? spare : now, closes ? now : NULL, l < last, to);
                    if (closes) {
                        after = now;
                        now = to;
                    } else if (!n->residual || l == last) {
                        spare = now;
                        now = to;
                    }
                }
                for (int64_t c = 0; c < n->n_units[last]; c++)
                    for (int64_t r = 0; r < own; r++)
                        scores[(c * n->n_members + m) * stride + row + r] = now[c * lanes + r];
            }
    }
}

#undef STRIP
#undef VECTOR
#undef LOAD
#undef STORE
#undef ALL
#undef ADD
#undef LARGER
#undef MULTIPLY_ADD
#undef GROUP
#undef ROW_LANES
#undef ROW_VECTOR
#undef ROW_LOAD
#undef ROW_STORE
#undef ROW_ALL
#undef ROW_ADD
#undef ROW_LARGER
#undef ROW_MULTIPLY_ADD
#endif

static const entry functions[] = {
#if SET_LANES
    {"network_scores", (void *)network_scores},
#endif
    {"sum_nodes", (void *)sum_nodes},
    {"sum_oblivious", (void *)sum_oblivious},
    {"sum_masked_32", (void *)sum_masked_32},
    {"sum_masked_64", (void *)sum_masked_64},
    {"choose_splits", (void *)choose_splits},
    {NULL, NULL},
};
