/* Predictions of rows: sums of the leaves of tree ensembles.

   instruction_sets.h includes this file once for every instruction set, with `SET` as its name.
   Python modules beside it have the same structs.

   Reads are in bounds because Python checks what it hands over once, when an ensemble is read or
   made: features of splits are below `n_features`, children lie behind their parent in the same
   tree, and masks hold a place for every answer. Of the rows, trees.py checks the shape at
   every call; their values decide between checked places alone, NaN included. */

#ifndef TABWRIGHT_PREDICTION_KERNELS
#define TABWRIGHT_PREDICTION_KERNELS

#include <stdint.h>
#include <string.h>

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

typedef struct {
    const char *name;
    void *address;
} entry;

#define add_baseline IN_SET(add_baseline)
#define add_masked_32 IN_SET(add_masked_32)
#define add_masked_64 IN_SET(add_masked_64)
#define block_rows IN_SET(block_rows)
#define find_places IN_SET(find_places)
#define functions IN_SET(functions)
#define lowest_bit IN_SET(lowest_bit)
#define sum_masked_32 IN_SET(sum_masked_32)
#define sum_masked_64 IN_SET(sum_masked_64)
#define sum_nodes IN_SET(sum_nodes)
#define sum_oblivious IN_SET(sum_oblivious)

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

static const entry functions[] = {
    {"sum_nodes", (void *)sum_nodes},
    {"sum_oblivious", (void *)sum_oblivious},
    {"sum_masked_32", (void *)sum_masked_32},
    {"sum_masked_64", (void *)sum_masked_64},
    {NULL, NULL},
};
