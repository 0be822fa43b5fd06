/* Steps of training, one member at a time: inputs picked from a table, forward pass, loss, backward
   pass, AdamW. The matrix products are a BLAS's.

   _steps.c includes this file once for every instruction set, with `SET` as its name: every
   function is one of that set. compiled_steps.py and row_goal.py have the same structs.

   Several threads may share a member. Each has units of its own in every hidden layer and rows of
   its own in the loss, and sums those whole, row after row: no sum depends on how many threads
   there are, on how wide the processor's vectors are, or on other members. */

#ifndef TABWRIGHT_KERNELS
#define TABWRIGHT_KERNELS

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__GNUC__) && !defined(_WIN32)
#include <sched.h>
#define CAN_SHARE_MEMBERS 1
#define PREFETCH(address) __builtin_prefetch(address)
#else
#define CAN_SHARE_MEMBERS 0
#define PREFETCH(address) ((void)0)
#endif

/* Sixteen numbers that an instruction treats at once, or several instructions of a narrower set. */
#if defined(__GNUC__)
typedef float vector __attribute__((vector_size(64), aligned(4), may_alias));
#define HAS_VECTORS 1
#else
#define HAS_VECTORS 0
#endif

/* Columns that are treated at once: a tile of a batch is read several times from a near cache. */
enum { TILE = 64 };

/* Rows that are summed before their sum joins the others: rounding errors stay small. */
enum { BLOCK = 32 };

/* A last layer of few outputs is so thin that a BLAS spends most of its time on the call. */
enum { FEW_OUTPUTS = 4, SIMD_WIDTH = 16 };

/* Spins of a thread that waits for others before it lets another program have the core. */
enum { SPINS = 4000 };

/* sgemm of a BLAS: matrices column by column, all arguments by address, as Fortran has it.
   Integers may have 32 bits or 64 there: positive ones below 2**31 are read alike, the lowest byte
   being the first. */
typedef void sgemm(const char *, const char *, const int64_t *, const int64_t *, const int64_t *,
                   const float *, const float *, const int64_t *, const float *, const int64_t *,
                   const float *, float *, const int64_t *);

/* A hidden layer: where its tensors begin among a member's parameters and running statistics.
   The weight is inputs x units; `norm` is batch norm's bias, then its weight. */
typedef struct {
    int64_t weight, norm, mean, variance;
    int64_t opens_block, closes_block;
    const int32_t *elements; /* odd numbers, rows x units; NULL: no dropout */
    int64_t drop_below;      /* an element is dropped where its hash is below */
    double keep;             /* share of the elements that are kept */
} layer;

typedef struct {
    sgemm *product;
    int64_t input_dim, hidden_dim, output_dim, n_layers;
    const layer *layers;
    int64_t head, head_bias; /* outputs x units; outputs */
    int64_t n_parameters, n_decayed;
    double eps, momentum; /* batch norm's */
} network;

typedef struct {
    float *parameters, *gradients, *first_moments, *second_moments, *steps, *statistics;
    double *loss_sum;
    int64_t index; /* among all members */
    double teacher_weight, temperature;
} member;

/* Rows of a table. A row's inputs are some numbers that are multiplied as they are; binned columns,
   where every bin below that of the row is an input of 1 and the row's own one of `shares`; and
   flags: columns of which one input is 1, or none. */
typedef struct {
    int64_t n_dense;
    const float *dense;                 /* rows x n_dense */
    int64_t n_ranges;
    const int64_t *ranges;              /* first input and number of every run of dense inputs */
    int64_t n_binned;
    const int32_t *bins;                /* inputs, rows x n_binned */
    const float *shares;                /* rows x n_binned */
    const int64_t *bin_bounds;          /* first input and the one after the last, by column */
    int64_t n_flags;
    const int32_t *flags;               /* inputs or -1, rows x n_flags */
    const int64_t *flag_bounds;         /* as bin_bounds */
    const int32_t *unknown;             /* input that stands for a hidden level; -1: none is */
    const int32_t *elements;            /* odd numbers, batch x n_flags; NULL: nothing is hidden */
    int64_t hide_below;
} table;

/* Losses of values, numbered as the objectives of regression.py are. */
enum { SQUARED_ERROR, ABSOLUTE_ERROR, PINBALL, POISSON_DEVIANCE, GAMMA_DEVIANCE };

/* What rows are trained on. */
typedef struct {
    const int64_t *codes;               /* classes; NULL: `values` */
    const float *values, *weights;      /* weights NULL: all 1 */
    const float *soft;                  /* a teacher's, rows x outputs; NULL: no teacher */
    const uint8_t *labelled;            /* rows with a target of their own; NULL: all */
    int64_t value_loss;                 /* of `values` */
    double largest_log;                 /* of a mean, up and down */
    const double *levels;               /* of quantiles, one for each output */
} goal;

/* A run of batches of one size. */
typedef struct {
    int64_t n_rows, n_batches, n_members;
    const int64_t *rows;                /* batches x rows; NULL: the table is the batch */
    const int32_t *keys;                /* of dropout: batches x layers x members */
    const int32_t *hide_keys;           /* batches */
    const double *learning_rates;       /* batches */
    double weight_decay, beta1, beta2, least;
} run;

/* Where threads that share members work; nothing in it outlives a pass. */
typedef struct {
    float *x, *shares;                  /* rows x n_dense; n_binned x rows */
    int32_t *bins, *flags;              /* n_binned x rows; n_flags x rows */
    float *sums;                        /* inputs x units: of weights, later of gradients */
    float *values, *outputs;            /* layers x rows x units */
    float *minus_mean, *std, *scale;    /* layers x units */
    float *gradient, *spare, *inner[2]; /* rows x units */
    float *logits, *logits_gradient;    /* rows x outputs */
    double *losses;                     /* blocks of rows */
    int64_t arrived, round;
} workspace;

/* One thread's part of a step: its units, and its rows of the loss. */
typedef struct {
    const network *n;
    const member *m;
    workspace *w;
    const table *t;
    int64_t n_rows, first_unit, last_unit, first_row, last_row;
    int64_t thread, n_threads;
} part;

typedef struct {
    const char *name;
    void *address;
} entry;

#define absolute_error IN_SET(absolute_error)
#define adamw IN_SET(adamw)
#define backward IN_SET(backward)
#define bins_forward IN_SET(bins_forward)
#define bins_gradient IN_SET(bins_gradient)
#define cross_entropy IN_SET(cross_entropy)
#define exponential IN_SET(exponential)
#define few_forward IN_SET(few_forward)
#define few_in_front IN_SET(few_in_front)
#define few_weight_gradient IN_SET(few_weight_gradient)
#define first_backward IN_SET(first_backward)
#define first_forward IN_SET(first_forward)
#define first_of IN_SET(first_of)
#define forward IN_SET(forward)
#define functions IN_SET(functions)
#define gamma_deviance IN_SET(gamma_deviance)
#define gather IN_SET(gather)
#define head_backward IN_SET(head_backward)
#define hidden_backward IN_SET(hidden_backward)
#define hidden_output IN_SET(hidden_output)
#define hidden_statistics IN_SET(hidden_statistics)
#define join IN_SET(join)
#define least_of IN_SET(least_of)
#define loss_gradient IN_SET(loss_gradient)
#define network_backward IN_SET(network_backward)
#define network_forward IN_SET(network_forward)
#define network_steps IN_SET(network_steps)
#define log_mean IN_SET(log_mean)
#define part_of IN_SET(part_of)
#define pinball IN_SET(pinball)
#define poisson_deviance IN_SET(poisson_deviance)
#define product_alone IN_SET(product_alone)
#define soft_cross_entropy IN_SET(soft_cross_entropy)
#define softmax_of IN_SET(softmax_of)
#define squared_error IN_SET(squared_error)
#define together IN_SET(together)
#define update IN_SET(update)
#define value_error IN_SET(value_error)

#endif

static inline int64_t least_of(int64_t a, int64_t b) { return a < b ? a : b; }

/* Wait until all threads that share the member are here. */
static void together(const part *p)
{
#if CAN_SHARE_MEMBERS
    if (p->n_threads == 1) return;
    workspace *w = p->w;
    const int64_t round = __atomic_load_n(&w->round, __ATOMIC_ACQUIRE);
    if (__atomic_add_fetch(&w->arrived, 1, __ATOMIC_ACQ_REL) == p->n_threads) {
        __atomic_store_n(&w->arrived, 0, __ATOMIC_RELAXED);
        __atomic_store_n(&w->round, round + 1, __ATOMIC_RELEASE);
        return;
    }
    for (int spins = 0; __atomic_load_n(&w->round, __ATOMIC_ACQUIRE) == round; spins++)
        if (spins > SPINS) sched_yield();
#else
    (void)p;
#endif
}

static inline void join(float *restrict sum, float *restrict added, int64_t width)
{
    for (int64_t c = 0; c < width; c++) {
        sum[c] += added[c];
        added[c] = 0.0f;
    }
}

/* ---------------------------------------------------------------------------------------------
   The first layer
   --------------------------------------------------------------------------------------------- */

/* The thread's rows of a batch, from all over the table. */
static void gather(const part *p, const int64_t *rows, int32_t hide_key)
{
    const table *t = p->t;
    const int64_t n = p->n_rows;
    /* They lie anywhere: ask for all of them before the first is needed. */
    for (int64_t r = p->first_row; r < p->last_row; r++) {
        for (int64_t i = 0; i < t->n_dense; i += 16) PREFETCH(t->dense + rows[r] * t->n_dense + i);
        for (int64_t i = 0; i < t->n_binned; i += 16) {
            PREFETCH(t->bins + rows[r] * t->n_binned + i);
            PREFETCH(t->shares + rows[r] * t->n_binned + i);
        }
    }
    for (int64_t r = p->first_row; r < p->last_row; r++) {
        if (t->n_dense)
            memcpy(p->w->x + r * t->n_dense, t->dense + rows[r] * t->n_dense,
                   (size_t)t->n_dense * sizeof *t->dense);
        for (int64_t c = 0; c < t->n_binned; c++) {
            p->w->bins[c * n + r] = t->bins[rows[r] * t->n_binned + c];
            p->w->shares[c * n + r] = t->shares[rows[r] * t->n_binned + c];
        }
        for (int64_t c = 0; c < t->n_flags; c++) {
            int32_t flag = t->flags[rows[r] * t->n_flags + c];
            if (t->elements && t->unknown[c] >= 0 && flag > t->unknown[c]) {
                const uint32_t hash = (uint32_t)t->elements[r * t->n_flags + c] * (uint32_t)hide_key;
                if ((int32_t)hash < t->hide_below) flag = t->unknown[c];
            }
            p->w->flags[c * n + r] = flag;
        }
    }
}

/* Adds to `z`, rows x units, what binned columns and flags contribute: a few rows of the weight,
   and of its sums over the bins below. */
static void bins_forward(const part *p, const float *weight, float *z)
{
    const table *t = p->t;
    const workspace *w = p->w;
    const int64_t n = p->n_rows, h = p->n->hidden_dim;
    for (int64_t c = 0; c < t->n_binned; c++) {
        const int64_t first = t->bin_bounds[2 * c], stop = t->bin_bounds[2 * c + 1];
        for (int64_t u = p->first_unit; u < p->last_unit; u++) w->sums[first * h + u] = 0.0f;
        for (int64_t i = first + 1; i < stop; i++) {
            const float *restrict below = w->sums + (i - 1) * h, *restrict own = weight + (i - 1) * h;
            float *restrict sum = w->sums + i * h;
            for (int64_t u = p->first_unit; u < p->last_unit; u++) sum[u] = below[u] + own[u];
        }
    }
    for (int64_t from = p->first_unit; from < p->last_unit; from += TILE) {
        const int64_t width = least_of(TILE, p->last_unit - from);
        for (int64_t r = 0; r < n; r++) {
            float *restrict out = z + r * h + from;
#if HAS_VECTORS
            /* Compilers leave sums in memory that could stay in registers. */
            if (width == TILE) {
                vector *to = (vector *)out;
                vector a = to[0], b = to[1], d = to[2], e = to[3];
                for (int64_t c = 0; c < t->n_binned; c++) {
                    const int64_t at = w->bins[c * n + r] * h + from;
                    const float share = w->shares[c * n + r];
                    const vector *below = (const vector *)(w->sums + at);
                    const vector *own = (const vector *)(weight + at);
                    a += below[0] + share * own[0];
                    b += below[1] + share * own[1];
                    d += below[2] + share * own[2];
                    e += below[3] + share * own[3];
                }
                for (int64_t c = 0; c < t->n_flags; c++) {
                    const int64_t flag = w->flags[c * n + r];
                    if (flag < 0) continue;
                    const vector *own = (const vector *)(weight + flag * h + from);
                    a += own[0], b += own[1], d += own[2], e += own[3];
                }
                to[0] = a, to[1] = b, to[2] = d, to[3] = e;
                continue;
            }
#endif
            for (int64_t c = 0; c < t->n_binned; c++) {
                const int64_t at = w->bins[c * n + r] * h + from;
                const float share = w->shares[c * n + r];
                const float *restrict below = w->sums + at, *restrict own = weight + at;
                for (int64_t u = 0; u < width; u++) out[u] += below[u] + share * own[u];
            }
            for (int64_t c = 0; c < t->n_flags; c++) {
                const int64_t flag = w->flags[c * n + r];
                if (flag < 0) continue;
                const float *restrict own = weight + flag * h + from;
                for (int64_t u = 0; u < width; u++) out[u] += own[u];
            }
        }
    }
}

/* The gradient of the weight of binned columns and flags from that of `z`, rows x units. */
static void bins_gradient(const part *p, const float *z_gradient, float *to)
{
    const table *t = p->t;
    const workspace *w = p->w;
    const int64_t n = p->n_rows, h = p->n->hidden_dim;
    for (int64_t from = p->first_unit; from < p->last_unit; from += TILE) {
        const int64_t width = least_of(TILE, p->last_unit - from);
        for (int64_t c = 0; c < t->n_binned; c++) {
            const int64_t first = t->bin_bounds[2 * c], stop = t->bin_bounds[2 * c + 1];
            for (int64_t i = first; i < stop; i++) {
                memset(to + i * h + from, 0, (size_t)width * sizeof *to);
                memset(w->sums + i * h + from, 0, (size_t)width * sizeof *to);
            }
            for (int64_t r = 0; r < n; r++) {
                const int64_t at = w->bins[c * n + r] * h + from;
                const float share = w->shares[c * n + r];
                const float *restrict g = z_gradient + r * h + from;
                float *restrict below = w->sums + at, *restrict own = to + at;
#if HAS_VECTORS
                if (width == TILE) {
                    for (int64_t i = 0; i < TILE / SIMD_WIDTH; i++) {
                        const vector passed = ((const vector *)g)[i];
                        ((vector *)below)[i] += passed;
                        ((vector *)own)[i] += share * passed;
                    }
                    continue;
                }
#endif
                for (int64_t u = 0; u < width; u++) {
                    below[u] += g[u];
                    own[u] += share * g[u];
                }
            }
            float above[TILE] = {0};
            for (int64_t i = stop - 1; i >= first; i--) {
                const float *restrict below = w->sums + i * h + from;
                float *restrict own = to + i * h + from;
                for (int64_t u = 0; u < width; u++) {
                    own[u] += above[u];
                    above[u] += below[u];
                }
            }
        }
        for (int64_t c = 0; c < t->n_flags; c++) {
            for (int64_t i = t->flag_bounds[2 * c]; i < t->flag_bounds[2 * c + 1]; i++)
                memset(to + i * h + from, 0, (size_t)width * sizeof *to);
            for (int64_t r = 0; r < n; r++) {
                const int64_t flag = w->flags[c * n + r];
                if (flag < 0) continue;
                const float *restrict g = z_gradient + r * h + from;
                float *restrict own = to + flag * h + from;
                for (int64_t u = 0; u < width; u++) own[u] += g[u];
            }
        }
    }
}

/* The thread's units of a linear layer, weight inputs x units, on `x`, rows x inputs. */
static void first_forward(const part *p, const float *x, const float *weight, float *z)
{
    const int64_t h = p->n->hidden_dim, n_own = p->last_unit - p->first_unit;
    float kept = 0.0f;
    const float one = 1.0f;
    if (!p->t->n_ranges)
        for (int64_t r = 0; r < p->n_rows; r++)
            memset(z + r * h + p->first_unit, 0, (size_t)n_own * sizeof *z);
    for (int64_t i = 0, at = 0; i < p->t->n_ranges; i++) {
        const int64_t first = p->t->ranges[2 * i], width = p->t->ranges[2 * i + 1];
        p->n->product("N", "N", &n_own, &p->n_rows, &width, &one,
                      weight + first * h + p->first_unit, &h, x + at, &p->t->n_dense, &kept,
                      z + p->first_unit, &h);
        kept = 1.0f;
        at += width;
    }
    if (p->t->n_binned || p->t->n_flags) bins_forward(p, weight, z);
}

static void first_backward(const part *p, const float *x, const float *z_gradient, float *to)
{
    const int64_t h = p->n->hidden_dim, n_own = p->last_unit - p->first_unit;
    const float one = 1.0f, zero = 0.0f;
    for (int64_t i = 0, at = 0; i < p->t->n_ranges; i++) {
        const int64_t first = p->t->ranges[2 * i], width = p->t->ranges[2 * i + 1];
        p->n->product("N", "T", &n_own, &width, &p->n_rows, &one, z_gradient + p->first_unit, &h,
                      x + at, &p->t->n_dense, &zero, to + first * h + p->first_unit, &h);
        at += width;
    }
    if (p->t->n_binned || p->t->n_flags) bins_gradient(p, z_gradient, to);
}

/* ---------------------------------------------------------------------------------------------
   Batch norm, ReLU and dropout
   --------------------------------------------------------------------------------------------- */

/* Mean of a tile of `z` over the rows, and the sum of squared distances from it. The mean comes off
   before anything is squared: the difference of two large sums would leave nothing of a small
   variance. */
static void hidden_statistics(const part *p, const float *z, int64_t width, float *restrict total,
                              float *restrict minus_mean, float *restrict square_sum)
{
    const int64_t h = p->n->hidden_dim, n = p->n_rows;
    const float minus_inverse = (float)(-1.0 / (double)n);
    float partial[TILE] = {0};
    memset(total, 0, TILE * sizeof *total);
    memset(square_sum, 0, TILE * sizeof *square_sum);
    for (int64_t row = 0, end; row < n;) {
        for (end = least_of(row + BLOCK, n); row < end; row++) {
            const float *restrict v = z + row * h;
            for (int64_t c = 0; c < width; c++) partial[c] += v[c];
        }
        join(total, partial, TILE);
    }
    for (int64_t c = 0; c < width; c++) minus_mean[c] = total[c] * minus_inverse;
    for (int64_t row = 0, end; row < n;) {
        for (end = least_of(row + BLOCK, n); row < end; row++) {
            const float *restrict v = z + row * h;
            for (int64_t c = 0; c < width; c++) {
                const float distance = v[c] + minus_mean[c];
                partial[c] += distance * distance;
            }
        }
        join(square_sum, partial, TILE);
    }
}

/* Batch norm by the batch's own statistics, (+ residual), ReLU and dropout: the thread's units of
   `values` into `outputs`; running statistics move. The factor of dropout, 1 / keep, rides on batch
   norm's scale and shift. */
static void hidden_output(const part *p, int64_t i, const float *residual, int32_t key)
{
    const network *n = p->n;
    const layer *l = n->layers + i;
    const int64_t h = n->hidden_dim, rows = p->n_rows;
    const float *values = p->w->values + i * rows * h, *norm = p->m->parameters + l->norm;
    float *output = p->w->outputs + i * rows * h;
    const float eps = (float)(n->eps * l->keep * l->keep), inverse = (float)(1.0 / l->keep);
    const float share = (float)(l->keep * l->keep / (double)rows);
    const float kept = (float)(1.0 - n->momentum);
    const float mean_share = (float)(n->momentum / (double)rows);
    const float variance_share = (float)(n->momentum / (double)(rows - 1));
    for (int64_t from = p->first_unit; from < p->last_unit; from += TILE) {
        const int64_t width = least_of(TILE, p->last_unit - from);
        float total[TILE], square_sum[TILE], a[TILE], b[TILE], shift[TILE];
        float *minus_mean = p->w->minus_mean + i * h + from, *std = p->w->std + i * h + from;
        hidden_statistics(p, values + from, width, total, minus_mean, square_sum);
        for (int64_t c = 0; c < width; c++) {
            std[c] = 1.0f / sqrtf(eps + square_sum[c] * share);
            a[c] = norm[h + from + c] * std[c];
            b[c] = norm[from + c] * inverse;
            shift[c] = minus_mean[c];
        }
        memcpy(p->w->scale + i * h + from, a, (size_t)width * sizeof *a);
        float *mean = p->m->statistics + l->mean + from;
        float *variance = p->m->statistics + l->variance + from;
        for (int64_t c = 0; c < width; c++) {
            mean[c] = mean[c] * kept + total[c] * mean_share;
            variance[c] = variance[c] * kept + square_sum[c] * variance_share;
        }
        for (int64_t row = 0; row < rows; row++) {
            const float *restrict v = values + row * h + from;
            float *restrict out = output + row * h + from;
            float y[TILE];
            for (int64_t c = 0; c < width; c++) y[c] = b[c] + (v[c] + shift[c]) * a[c];
            if (residual) {
                const float *restrict r = residual + row * h + from;
                for (int64_t c = 0; c < width; c++) y[c] += r[c];
            }
            /* What is not a number stays so: the trainer must see it. */
            if (l->elements) {
                const int32_t *restrict e = l->elements + row * h + from;
                const int32_t drop_below = (int32_t)l->drop_below;
                for (int64_t c = 0; c < width; c++) {
                    const int32_t hash = (int32_t)((uint32_t)e[c] * (uint32_t)key);
                    out[c] = (y[c] <= 0.0f) | (hash < drop_below) ? 0.0f : y[c];
                }
            } else {
                for (int64_t c = 0; c < width; c++) out[c] = y[c] <= 0.0f ? 0.0f : y[c];
            }
        }
    }
}

/* The gradient in front of batch norm, into `inner`, from that behind dropout, and batch norm's own
   gradients. `gradient` is taken back through dropout and ReLU where `keeps_gradient`.

   S. Ioffe and C. Szegedy, "Batch Normalization", 2015, section 3: the gradient loses its mean and
   its part along the normalised values. */
static void hidden_backward(const part *p, int64_t i, float *gradient, float *inner,
                            int64_t keeps_gradient)
{
    const network *n = p->n;
    const layer *l = n->layers + i;
    const int64_t h = n->hidden_dim, rows = p->n_rows;
    const float *values = p->w->values + i * rows * h, *output = p->w->outputs + i * rows * h;
    const float inverse = (float)(1.0 / l->keep);
    const float minus_share = (float)(-l->keep * l->keep / (double)rows);
    float *norm_gradient = p->m->gradients + l->norm;
    for (int64_t from = p->first_unit; from < p->last_unit; from += TILE) {
        const int64_t width = least_of(TILE, p->last_unit - from);
        float sum[TILE] = {0}, product_sum[TILE] = {0}, partial[TILE] = {0}, product[TILE] = {0};
        float shift[TILE], a[TILE], of_mean[TILE], of_std[TILE];
        const float *std = p->w->std + i * h + from;
        memcpy(shift, p->w->minus_mean + i * h + from, (size_t)width * sizeof *shift);
        memcpy(a, p->w->scale + i * h + from, (size_t)width * sizeof *a);
        for (int64_t row = 0, end; row < rows;) {
            for (end = least_of(row + BLOCK, rows); row < end; row++) {
                const int64_t at = row * h + from;
                const float *restrict out = output + at, *restrict v = values + at;
                const float *restrict g = gradient + at;
                for (int64_t c = 0; c < width; c++) {
                    const float passed = out[c] <= 0.0f ? 0.0f : g[c];
                    partial[c] += passed;
                    product[c] += passed * (v[c] + shift[c]);
                }
            }
            join(sum, partial, TILE);
            join(product_sum, product, TILE);
        }
        for (int64_t c = 0; c < width; c++) {
            const float factor = a[c] * minus_share;
            norm_gradient[from + c] = sum[c] * inverse;
            norm_gradient[h + from + c] = product_sum[c] * std[c];
            of_mean[c] = sum[c] * inverse * inverse * factor;
            of_std[c] = product_sum[c] * std[c] * std[c] * factor;
        }
        for (int64_t row = 0; row < rows; row++) {
            const int64_t at = row * h + from;
            const float *restrict out = output + at, *restrict v = values + at;
            float *restrict g = gradient + at, *restrict to = inner + at;
            for (int64_t c = 0; c < width; c++) {
                const float passed = out[c] <= 0.0f ? 0.0f : g[c];
                to[c] = of_mean[c] + (v[c] + shift[c]) * of_std[c] + passed * a[c];
            }
            if (keeps_gradient)
                for (int64_t c = 0; c < width; c++) g[c] = out[c] <= 0.0f ? 0.0f : g[c];
        }
    }
}

/* ---------------------------------------------------------------------------------------------
   The last layer
   --------------------------------------------------------------------------------------------- */

static void few_forward(int64_t rows, int64_t width, int64_t height, const float *x,
                        const float *weight, float *z)
{
    for (int64_t row = 0; row < rows; row++)
        for (int64_t c = 0; c < height; c++) {
            const float *restrict v = x + row * width, *restrict w = weight + c * width;
            /* Sums of every sixteenth: the result is the same however wide vectors are. */
            float partial[SIMD_WIDTH] = {0}, sum = 0.0f;
            int64_t i = 0;
            for (; i + SIMD_WIDTH <= width; i += SIMD_WIDTH)
                for (int64_t k = 0; k < SIMD_WIDTH; k++) partial[k] += v[i + k] * w[i + k];
            for (int64_t k = 0; k < SIMD_WIDTH; k++) sum += partial[k];
            for (; i < width; i++) sum += v[i] * w[i];
            z[row * height + c] = sum;
        }
}

/* Columns `first` to `last` of the gradient of a weight, height x width. */
static void few_weight_gradient(int64_t rows, int64_t width, int64_t height, int64_t first,
                                int64_t last, const float *x, const float *z_gradient, float *to)
{
    for (int64_t from = first; from < last; from += TILE) {
        const int64_t n = least_of(TILE, last - from);
        float sum[FEW_OUTPUTS][TILE] = {{0}}, partial[FEW_OUTPUTS][TILE] = {{0}};
        for (int64_t row = 0, end; row < rows;) {
            for (end = least_of(row + BLOCK, rows); row < end; row++)
                for (int64_t c = 0; c < height; c++) {
                    const float g = z_gradient[row * height + c];
                    const float *restrict v = x + row * width + from;
                    for (int64_t i = 0; i < n; i++) partial[c][i] += g * v[i];
                }
            for (int64_t c = 0; c < height; c++) join(sum[c], partial[c], TILE);
        }
        for (int64_t c = 0; c < height; c++)
            memcpy(to + c * width + from, sum[c], (size_t)n * sizeof *to);
    }
}

static void few_in_front(int64_t rows, int64_t width, int64_t height, int64_t first, int64_t last,
                         const float *weight, const float *z_gradient, float *to)
{
    for (int64_t row = 0; row < rows; row++) {
        float *restrict out = to + row * width;
        for (int64_t c = 0; c < height; c++) {
            const float g = z_gradient[row * height + c], *restrict w = weight + c * width;
            if (c)
                for (int64_t i = first; i < last; i++) out[i] += g * w[i];
            else
                for (int64_t i = first; i < last; i++) out[i] = g * w[i];
        }
    }
}

/* Gradients of the last layer, and of what is in front of it: the thread's units of `values`. */
static void head_backward(const part *p, const float *values, int64_t width, int64_t first,
                          int64_t last)
{
    const network *n = p->n;
    const float *outer = p->w->logits_gradient, *head = p->m->parameters + n->head;
    float *to = p->m->gradients + n->head;
    const float one = 1.0f, zero = 0.0f;
    const int64_t n_own = last - first, height = n->output_dim, rows = p->n_rows;
    if (height <= FEW_OUTPUTS)
        few_weight_gradient(rows, width, height, first, last, values, outer, to);
    else if (n_own)
        n->product("N", "T", &n_own, &height, &rows, &one, values + first, &width, outer, &height,
                   &zero, to + first, &width);
    if (p->thread == 0)
        for (int64_t c = 0; c < height; c++) {
            double sum = 0.0;
            for (int64_t row = 0; row < rows; row++) sum += outer[row * height + c];
            p->m->gradients[n->head_bias + c] = (float)sum;
        }
    if (!n->n_layers) return;
    if (height <= FEW_OUTPUTS)
        few_in_front(rows, width, height, first, last, head, outer, p->w->gradient);
    else
        n->product("N", "N", &n_own, &rows, &height, &one, head + first, &width, outer, &height,
                   &zero, p->w->gradient + first, &width);
}

/* ---------------------------------------------------------------------------------------------
   Passes
   --------------------------------------------------------------------------------------------- */

/* Where a thread's share of `n` begins, which is whole pieces of `grain`. */
static inline int64_t first_of(int64_t n, int64_t grain, int64_t thread, int64_t n_threads)
{
    return least_of((n + grain - 1) / grain * thread / n_threads * grain, n);
}

/* A thread's share of units and rows, both in pieces that do not depend on the number of threads. */
static part part_of(const network *n, const member *m, workspace *w, const table *t, int64_t n_rows,
                    int64_t thread, int64_t n_threads)
{
    part p = {n, m, w, t, n_rows, 0, 0, 0, 0, thread, n_threads};
    p.first_unit = first_of(n->hidden_dim, SIMD_WIDTH, thread, n_threads);
    p.last_unit = first_of(n->hidden_dim, SIMD_WIDTH, thread + 1, n_threads);
    p.first_row = first_of(n_rows, BLOCK, thread, n_threads);
    p.last_row = first_of(n_rows, BLOCK, thread + 1, n_threads);
    return p;
}

/* Logits in training mode of `x`; without hidden layers the thread must be alone. */
static void forward(const part *p, const float *x, const int32_t *keys, int64_t key_stride)
{
    const network *n = p->n;
    const int64_t h = n->hidden_dim, rows = p->n_rows, size = rows * h;
    const float *parameters = p->m->parameters, one = 1.0f, zero = 0.0f;
    const float *values = x, *entry_of_block = x;
    int64_t width = n->input_dim;
    for (int64_t i = 0; i < n->n_layers; i++) {
        const layer *l = n->layers + i;
        const int64_t n_own = p->last_unit - p->first_unit;
        if (l->opens_block) entry_of_block = values;
        if (i)
            n->product("N", "N", &n_own, &rows, &h, &one, parameters + l->weight + p->first_unit, &h,
                       values, &h, &zero, p->w->values + i * size + p->first_unit, &h);
        else
            first_forward(p, x, parameters + l->weight, p->w->values);
        hidden_output(p, i, l->closes_block ? entry_of_block : NULL, keys ? keys[i * key_stride] : 0);
        values = p->w->outputs + i * size;
        width = h;
        together(p);
    }
    /* A BLAS adds up the last rows of a matrix in another order than the others: they stay whole. */
    const int64_t height = n->output_dim, is_few = height <= FEW_OUTPUTS;
    const int64_t first = is_few ? p->first_row : 0;
    const int64_t n_own = is_few ? p->last_row - first : p->thread == 0 ? rows : 0;
    const float *head = parameters + n->head, *bias = parameters + n->head_bias;
    float *logits = p->w->logits + first * height;
    values += first * width;
    if (is_few)
        few_forward(n_own, width, height, values, head, logits);
    else if (n_own)
        n->product("T", "N", &height, &n_own, &width, &one, head, &width, values, &width, &zero,
                   logits, &height);
    for (int64_t row = 0; row < n_own; row++)
        for (int64_t c = 0; c < height; c++) logits[row * height + c] += bias[c];
    if (!is_few) together(p);
}

/* All gradients from that in the logits, after `forward` on the same `x`. */
static void backward(const part *p, const float *x)
{
    const network *n = p->n;
    const int64_t h = n->hidden_dim, rows = p->n_rows, size = rows * h, last = n->n_layers - 1;
    const float *parameters = p->m->parameters, one = 1.0f, zero = 0.0f;
    float *gradient = p->w->gradient, *spare = p->w->spare;
    if (last < 0) {
        head_backward(p, x, n->input_dim, 0, n->input_dim);
        return;
    }
    const int64_t n_own = p->last_unit - p->first_unit;
    head_backward(p, p->w->outputs + last * size, h, p->first_unit, p->last_unit);
    for (int64_t i = last; i >= 0; i--) {
        const layer *l = n->layers + i;
        const int in_block = l->opens_block || l->closes_block;
        /* Others may still read what the layer behind left in its buffer. */
        float *inner = p->w->inner[i % 2], *to = p->m->gradients + l->weight;
        hidden_backward(p, i, gradient, inner, in_block);
        if (!i) {
            first_backward(p, x, inner, to);
            break;
        }
        n->product("N", "T", &n_own, &h, &rows, &one, inner + p->first_unit, &h,
                   p->w->outputs + (i - 1) * size, &h, &zero, to + p->first_unit, &h);
        together(p);
        /* Inside a block, the gradient in the shortcut waits in the other buffer. */
        n->product("T", "N", &n_own, &rows, &h, &one, parameters + l->weight + p->first_unit * h, &h,
                   inner, &h, l->opens_block ? &one : &zero,
                   (in_block ? spare : gradient) + p->first_unit, &h);
        if (in_block) {
            float *other = gradient;
            gradient = spare;
            spare = other;
        }
    }
}

/* AdamW's step on parameters `first` to `last`, of which weight decay acts on the first
   `n_decayed`. What all parameters share is computed in double precision first.

   I. Loshchilov and F. Hutter, "Decoupled Weight Decay Regularization", 2019, algorithm 2. */
static void adamw(int64_t from, int64_t to, int64_t n_decayed, float *restrict values,
                  const float *restrict gradients, float *restrict first, float *restrict second,
                  double n_steps, double learning_rate, double weight_decay, double beta1,
                  double beta2, double least)
{
    const float rate = (float)(learning_rate / (1.0 - pow(beta1, n_steps)));
    const float second_share = (float)(1.0 / sqrt(1.0 - pow(beta2, n_steps)));
    const float first_change = (float)(1.0 - beta1), second_change = (float)(1.0 - beta2);
    const float second_keep = (float)beta2, eps = (float)least;
    const float decayed = (float)(1.0 - learning_rate * weight_decay);
    for (int64_t i = from; i < to;) {
        const int64_t end = i < n_decayed ? least_of(n_decayed, to) : to;
        const float keep = i < n_decayed ? decayed : 1.0f;
        for (; i < end; i++) {
            const float g = gradients[i];
            const float m = first[i] + (g - first[i]) * first_change;
            const float v = second[i] * second_keep + second_change * g * g;
            first[i] = m;
            second[i] = v;
            values[i] = values[i] * keep - rate * m / (sqrtf(v) * second_share + eps);
        }
    }
}

static void update(const part *p, const run *r, double learning_rate)
{
    const member *m = p->m;
    const int64_t from = first_of(p->n->n_parameters, SIMD_WIDTH, p->thread, p->n_threads);
    const int64_t to = first_of(p->n->n_parameters, SIMD_WIDTH, p->thread + 1, p->n_threads);
    adamw(from, to, p->n->n_decayed, m->parameters, m->gradients, m->first_moments,
          m->second_moments, *m->steps + 1.0, learning_rate, r->weight_decay, r->beta1, r->beta2,
          r->least);
}

/* ---------------------------------------------------------------------------------------------
   Losses
   --------------------------------------------------------------------------------------------- */

/* exp(x) for x at most 0, to about 2 units in the last place; 0 below -87.

   x = k ln 2 + r with |r| at most ln 2 / 2, and exp(r) by its series to the seventh power. */
static inline float exponential(float x)
{
    float at_least = x >= -87.0f ? x : -87.0f; /* of what is not a number too */
    float k = rintf(at_least * 1.44269504f);
    float r = (at_least - k * 0.693359375f) + k * 2.12194440e-4f;
    float series = 1.0f / 5040;
    series = series * r + 1.0f / 720;
    series = series * r + 1.0f / 120;
    series = series * r + 1.0f / 24;
    series = series * r + 1.0f / 6;
    series = series * r + 0.5f;
    series = series * r + 1.0f;
    series = series * r + 1.0f;
    int32_t power = ((int32_t)k + 127) << 23;
    float scale;
    memcpy(&scale, &power, sizeof scale);
    return x >= -87.0f ? series * scale : x < -87.0f ? 0.0f : x;
}

/* The gradient of the mean over all rows, for a block of at most BLOCK of them, and the sum of
   their losses. A class of the block is treated at once: there are few classes, and many rows. */
static double cross_entropy(int64_t n, int64_t n_classes, const float *restrict z,
                            const int64_t *rows, const goal *o, float share, float *restrict g)
{
    double loss = 0.0;
    float largest[BLOCK], sum[BLOCK] = {0}, scale[BLOCK];
    for (int64_t r = 0; r < n; r++) largest[r] = z[r * n_classes];
    for (int64_t c = 1; c < n_classes; c++)
        for (int64_t r = 0; r < n; r++) {
            const float other = z[r * n_classes + c];
            largest[r] = other > largest[r] ? other : largest[r];
        }
    for (int64_t c = 0; c < n_classes; c++) {
        float partial[BLOCK] = {0};
        for (int64_t r = 0; r < n; r++) partial[r] = z[r * n_classes + c] - largest[r];
        for (int64_t r = 0; r < BLOCK; r++) partial[r] = exponential(partial[r]);
        for (int64_t r = 0; r < n; r++) {
            sum[r] += partial[r];
            g[r * n_classes + c] = partial[r];
        }
    }
    for (int64_t r = 0; r < n; r++) {
        const float weight = o->weights ? o->weights[rows[r]] : 1.0f;
        scale[r] = weight * share / sum[r];
        loss += weight * (logf(sum[r]) - (z[r * n_classes + o->codes[rows[r]]] - largest[r]));
    }
    for (int64_t r = 0; r < n; r++)
        for (int64_t c = 0; c < n_classes; c++) g[r * n_classes + c] *= scale[r];
    for (int64_t r = 0; r < n; r++)
        g[r * n_classes + o->codes[rows[r]]] -= (o->weights ? o->weights[rows[r]] : 1.0f) * share;
    return loss;
}

/* Logarithms of the softmax of z / temperature. */
static void softmax_of(int64_t n, const float *z, float temperature, float *logarithms)
{
    float largest = z[0] / temperature, sum = 0.0f;
    for (int64_t c = 0; c < n; c++) {
        logarithms[c] = z[c] / temperature;
        largest = logarithms[c] > largest ? logarithms[c] : largest;
    }
    for (int64_t c = 0; c < n; c++) sum += expf(logarithms[c] - largest);
    const float shift = largest + logf(sum);
    for (int64_t c = 0; c < n; c++) logarithms[c] -= shift;
}

/* A row's loss between its own class and a teacher's probabilities, and its gradient. `scratch`
   has two rows of classes.

   G. Hinton, O. Vinyals and J. Dean, "Distilling the Knowledge in a Neural Network", 2015,
   section 2: the soft part is scaled by the temperature's square. */
static double soft_cross_entropy(int64_t n, const float *z, int64_t row, const goal *o,
                                 float of_teacher, float temperature, float *scratch, float *g)
{
    float *own = scratch, *cooled = scratch + n;
    const float *soft = o->soft + row * n;
    double soft_loss = 0.0;
    softmax_of(n, z, 1.0f, own);
    for (int64_t c = 0; c < n; c++) g[c] = (1.0f - of_teacher) * expf(own[c]);
    g[o->codes[row]] -= 1.0f - of_teacher;
    const double hard_loss = -own[o->codes[row]];
    if (temperature == 1.0f) {
        for (int64_t c = 0; c < n; c++) {
            soft_loss -= (double)soft[c] * own[c];
            g[c] += of_teacher * (expf(own[c]) - soft[c]);
        }
    } else {
        softmax_of(n, z, temperature, cooled);
        for (int64_t c = 0; c < n; c++) own[c] = logf(soft[c] > 1e-12f ? soft[c] : 1e-12f);
        softmax_of(n, own, temperature, own);
        for (int64_t c = 0; c < n; c++) {
            const float goal_share = expf(own[c]);
            soft_loss -= (double)goal_share * cooled[c];
            g[c] += of_teacher * temperature * (expf(cooled[c]) - goal_share);
        }
        soft_loss *= (double)temperature * temperature;
    }
    return hard_loss + of_teacher * (soft_loss - hard_loss);
}

static double squared_error(float z, int64_t row, const goal *o, float of_teacher, float *g)
{
    float wanted = o->values[row];
    if (o->soft) wanted += of_teacher * (o->soft[row] - wanted);
    const float error = z - wanted;
    *g = 2.0f * error;
    return (double)error * error;
}

static double absolute_error(float z, float wanted, float *g)
{
    const float error = z - wanted;
    *g = (float)((error > 0.0f) - (error < 0.0f));
    return fabsf(error);
}

/* The mean loss over levels, of which output 0 is the lowest quantile, and every other, through
   softplus, the gap above the one before it. */
static double pinball(int64_t n_levels, const float *z, float wanted, const double *levels, float *g)
{
    double quantile = z[0], loss = 0.0, above = 0.0;
    for (int64_t k = 0; k < n_levels; k++) {
        if (k) quantile += (z[k] > 0.0f ? z[k] : 0.0f) + log1p(exp(-fabs((double)z[k])));
        const double error = wanted - quantile, slope = levels[k] - (error < 0.0);
        loss += slope * error;
        g[k] = (float)(-slope / (double)n_levels);
    }
    /* A gap moves its own quantile and all above it. */
    for (int64_t k = n_levels - 1; k >= 0; k--) {
        above += g[k];
        g[k] = (float)(k ? above / (1.0 + exp(-(double)z[k])) : above);
    }
    return loss / (double)n_levels;
}

/* The output of a network whose mean is its exponential. */
static inline double log_mean(float z, double largest)
{
    return z > largest ? largest : z < -largest ? -largest : z;
}

/* Unit deviances: P. McCullagh and J. Nelder, "Generalized Linear Models", 1989, section 2.3. */
static double poisson_deviance(float z, float wanted, double largest, float *g)
{
    const double logarithm = log_mean(z, largest), mean = exp(logarithm);
    *g = (float)(2.0 * (mean - wanted));
    const double alone = wanted > 0.0f ? wanted * log((double)wanted) : 0.0;
    return 2.0 * (alone - wanted * logarithm - wanted + mean);
}

static double gamma_deviance(float z, float wanted, double largest, float *g)
{
    const double logarithm = log_mean(z, largest), ratio = wanted * exp(-logarithm);
    *g = (float)(2.0 * (1.0 - ratio));
    return 2.0 * (ratio - 1.0 - log((double)wanted) + logarithm);
}

/* A row's loss in a regression, and its gradient in the outputs. */
static double value_error(int64_t n, const float *z, int64_t row, const goal *o, float of_teacher,
                          float *g)
{
    const float wanted = o->values[row];
    switch (o->value_loss) {
    case ABSOLUTE_ERROR: return absolute_error(*z, wanted, g);
    case PINBALL: return pinball(n, z, wanted, o->levels, g);
    case POISSON_DEVIANCE: return poisson_deviance(*z, wanted, o->largest_log, g);
    case GAMMA_DEVIANCE: return gamma_deviance(*z, wanted, o->largest_log, g);
    default: return squared_error(*z, row, o, of_teacher, g);
    }
}

/* The gradient of the batch's mean loss in the thread's rows of the logits; losses by block. */
static void loss_gradient(const part *p, const int64_t *rows, const goal *o)
{
    const int64_t n = p->n->output_dim;
    const float share = 1.0f / (float)p->n_rows;
    for (int64_t from = p->first_row; from < p->last_row; from += BLOCK) {
        const int64_t end = least_of(from + BLOCK, p->last_row);
        double *loss = p->w->losses + from / BLOCK;
        const float *z = p->w->logits + from * n;
        float *g = p->w->logits_gradient + from * n;
        if (o->codes && !o->soft) {
            *loss = cross_entropy(end - from, n, z, rows + from, o, share, g);
            continue;
        }
        *loss = 0.0;
        for (int64_t r = from; r < end; r++, z += n, g += n) {
            const int64_t row = rows[r];
            const int is_labelled = !o->labelled || o->labelled[row];
            const float of_teacher = is_labelled ? (float)p->m->teacher_weight : 1.0f;
            const float weight = o->weights ? o->weights[row] : 1.0f;
            /* Two rows of classes that nobody needs now stand where the spare gradients do. */
            *loss += weight * (o->codes ? soft_cross_entropy(n, z, row, o, of_teacher,
                                                             (float)p->m->temperature,
                                                             p->w->spare + 2 * n * p->thread, g)
                                        : value_error(n, z, row, o, of_teacher, g));
            for (int64_t c = 0; c < n; c++) g[c] *= weight * share;
        }
    }
}

/* ---------------------------------------------------------------------------------------------
   What Python calls
   --------------------------------------------------------------------------------------------- */

/* A product of a step, alone: whether `f` is what we take it for. `z` is rows x units, in as many
   pieces as threads would share it in; `x` is rows x width and `weight` width x units, or they lie
   transposed. */
static void product_alone(sgemm *f, int64_t is_x_transposed, int64_t is_weight_transposed,
                          int64_t rows, int64_t width, int64_t units, int64_t n_parts,
                          const float *x, const float *weight, float *z)
{
    const float one = 1.0f, zero = 0.0f;
    const int64_t *line = is_x_transposed ? &rows : &width;
    const int64_t *weight_line = is_weight_transposed ? &width : &units;
    for (int64_t i = 0; i < n_parts; i++) {
        const int64_t first = first_of(units, SIMD_WIDTH, i, n_parts);
        const int64_t n_own = first_of(units, SIMD_WIDTH, i + 1, n_parts) - first;
        f(is_weight_transposed ? "T" : "N", is_x_transposed ? "T" : "N", &n_own, &rows, &width, &one,
          weight + (is_weight_transposed ? first * width : first), weight_line, x, line, &zero, z + first,
          &units);
    }
}

/* Logits in training mode of a batch, which is the table; running statistics move. */
static void network_forward(const network *n, const member *m, workspace *w, const table *t,
                            int64_t n_rows, const int32_t *keys, int64_t key_stride, float *logits)
{
    const part p = part_of(n, m, w, t, n_rows, 0, 1);
    forward(&p, t->dense, keys, key_stride);
    memcpy(logits, w->logits, (size_t)(n_rows * n->output_dim) * sizeof *logits);
}

/* All gradients, after `network_forward` of the same member in the same workspace. */
static void network_backward(const network *n, const member *m, workspace *w, const table *t,
                             int64_t n_rows, const float *logits_gradient)
{
    const part p = part_of(n, m, w, t, n_rows, 0, 1);
    memcpy(w->logits_gradient, logits_gradient,
           (size_t)(n_rows * n->output_dim) * sizeof *logits_gradient);
    backward(&p, t->dense);
}

/* Steps of some members over a run of batches. Threads that share them call it together, each with
   its number. */
static void network_steps(const network *n, const member *members, int64_t n_own, workspace *w,
                          const table *t, const goal *o, const run *r, int64_t thread,
                          int64_t n_threads)
{
    for (int64_t k = 0; k < n_own; k++) {
        const member *m = members + k;
        const part p = part_of(n, m, w, t, r->n_rows, thread, n_threads);
        for (int64_t i = 0; i < r->n_batches; i++) {
            const int64_t *rows = r->rows + i * r->n_rows;
            const int32_t *keys = r->keys ? r->keys + i * n->n_layers * r->n_members + m->index : NULL;
            gather(&p, rows, r->hide_keys ? r->hide_keys[i] : 0);
            together(&p);
            forward(&p, w->x, keys, r->n_members);
            loss_gradient(&p, rows, o);
            together(&p);
            backward(&p, w->x);
            if (thread == 0) {
                double loss = 0.0;
                for (int64_t b = 0; b * BLOCK < r->n_rows; b++) loss += w->losses[b];
                *m->loss_sum += loss;
            }
            together(&p);
            update(&p, r, r->learning_rates[i]);
            together(&p);
            if (thread == 0) *m->steps += 1.0f;
        }
    }
}

static const entry functions[] = {
    {"adamw", (void *)adamw},
    {"product_alone", (void *)product_alone},
    {"network_forward", (void *)network_forward},
    {"network_backward", (void *)network_backward},
    {"network_steps", (void *)network_steps},
    {NULL, NULL},
};
