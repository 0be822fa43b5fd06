/* What a training step computes besides its matrix products: batch norm, ReLU and dropout,
   forward and backward; the loss's gradient; AdamW. And the passes of a whole network, which call
   a BLAS for the products.

   _kernels.c includes this file once for every instruction set, with `SET` as its name: every
   function is one of that set. compiled_kernels.py and compiled_network.py have the same structs.
   Every column of a member is summed by itself, row after row: a sum depends neither on how wide
   the processor's vectors are nor on the members and columns beside it. */

#ifndef TABWRIGHT_KERNELS
#define TABWRIGHT_KERNELS

#include <math.h>
#include <stdint.h>
#include <string.h>

/* Columns that are treated at once, so that their sums stay in the nearest cache. */
enum { TILE = 256 };

/* Rows that are summed before their sum joins the others: rounding errors stay small. */
enum { BLOCK = 32 };

typedef struct {
    int64_t n_members, n_rows, n_columns;
    /* Elements from a member's sums to the next one's; all else lies without gaps. */
    int64_t statistics_stride;
    float *centred, *output;       /* rows x columns */
    float *total, *square_sum;     /* columns */
    float *gain, *affine, *sums;   /* pairs: 2 x columns */
    const int32_t *elements;       /* hashes of the elements, rows x columns; NULL: no dropout */
    float limit;                   /* what hashes to at most this, read as a float, is dropped */
    float minus_inverse, eps, share, minus_share;
} layer;

/* Rows drawn at random lie anywhere: ask for all of them before the first is needed. */
#if defined(__GNUC__)
#define PREFETCH(address) __builtin_prefetch(address)
#else
#define PREFETCH(address) ((void)0)
#endif

/* Over all tiles of all members: `member`, its first column `from`, and its `width`. */
#define FOR_TILES(l)                                                      \
    for (int64_t member = 0; member < (l)->n_members; member++)           \
        for (int64_t from = 0, width; from < (l)->n_columns; from += TILE) \
            if ((width = least(TILE, (l)->n_columns - from)) > 0)

#define FOR_BLOCKS(l) \
    for (int64_t row = 0, end; row < (l)->n_rows && (end = least(row + BLOCK, (l)->n_rows)); )

/* sgemm of a BLAS: matrices column by column, all arguments by address, as Fortran has it.
   Integers may have 32 bits or 64 there: positive ones below 2**31 are read alike, the lowest byte
   being the first. */
typedef void sgemm(const char *, const char *, const int64_t *, const int64_t *, const int64_t *,
                   const float *, const float *, const int64_t *, const float *, const int64_t *,
                   const float *, float *, const int64_t *);

/* A last layer of few outputs is so thin that a BLAS spends most of its time on the call. */
enum { FEW_OUTPUTS = 4, LANES = 16 };

typedef struct {
    const layer *between;          /* of one member */
    const float *weight, *norm;    /* hidden_dim x inputs; bias, then weight of batch norm */
    float *weight_gradient, *norm_gradient;
    const int32_t *key;            /* of dropout */
    int64_t opens_block, closes_block;
} hidden;

/* A network, and where one member's passes over a batch work. */
typedef struct {
    sgemm *product;
    int64_t n_rows, input_dim, hidden_dim, output_dim, n_hidden;
    const hidden *hidden;
    const float *head, *head_bias;
    float *head_gradient, *head_bias_gradient;
    /* What products read and write must lie alike for every member, or bits might differ:
       `outer` is the logits' and their gradients' place while they are part of one. */
    float *logits, *outer;
    float *gradient, *spare, *scratch;      /* rows x hidden_dim */
    int64_t n_statistics;
    float *running;
    const float *sums, *shares;
    float kept_share;
} network;

typedef struct {
    const char *name;
    void *address;
} entry;

#define adamw IN_SET(adamw)
#define cross_entropy IN_SET(cross_entropy)
#define dropped IN_SET(dropped)
#define exponential IN_SET(exponential)
#define few_behind IN_SET(few_behind)
#define few_in_front IN_SET(few_in_front)
#define few_weight_gradient IN_SET(few_weight_gradient)
#define functions IN_SET(functions)
#define gradient_in_front IN_SET(gradient_in_front)
#define gradient_of_weight IN_SET(gradient_of_weight)
#define hidden_centre IN_SET(hidden_centre)
#define hidden_inner IN_SET(hidden_inner)
#define hidden_output IN_SET(hidden_output)
#define hidden_sums IN_SET(hidden_sums)
#define hidden_total IN_SET(hidden_total)
#define join IN_SET(join)
#define least IN_SET(least)
#define network_backward IN_SET(network_backward)
#define network_forward IN_SET(network_forward)
#define product_alone IN_SET(product_alone)
#define values_behind IN_SET(values_behind)

#endif

static inline float dropped(float value, int32_t element, int32_t key, float limit)
{
    uint32_t bits = (uint32_t)element * (uint32_t)key;
    float hash;
    memcpy(&hash, &bits, sizeof hash);
    return hash <= limit ? 0.0f : value;
}

static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

static inline void join(float *restrict sum, float *restrict part, int64_t width)
{
    for (int64_t c = 0; c < width; c++) {
        sum[c] += part[c];
        part[c] = 0.0f;
    }
}

/* Sums of the columns of `centred`, before anything is taken off. */
static void hidden_total(const layer *l)
{
    FOR_TILES(l) {
        const float *values = l->centred + member * l->n_rows * l->n_columns + from;
        float sum[TILE] = {0}, part[TILE] = {0};
        FOR_BLOCKS(l) {
            for (; row < end; row++) {
                const float *restrict v = values + row * l->n_columns;
                for (int64_t c = 0; c < width; c++) part[c] += v[c];
            }
            join(sum, part, width);
        }
        memcpy(l->total + member * l->statistics_stride + from, sum, width * sizeof *sum);
    }
}

/* Takes the mean off `centred`; sums of squares of what is left. */
static void hidden_centre(const layer *l)
{
    FOR_TILES(l) {
        float *values = l->centred + member * l->n_rows * l->n_columns + from;
        const float *total = l->total + member * l->statistics_stride + from;
        float sum[TILE] = {0}, part[TILE] = {0}, minus_mean[TILE];
        for (int64_t c = 0; c < width; c++) minus_mean[c] = total[c] * l->minus_inverse;
        FOR_BLOCKS(l) {
            for (; row < end; row++) {
                float *restrict v = values + row * l->n_columns;
                for (int64_t c = 0; c < width; c++) {
                    float distance = v[c] + minus_mean[c];
                    v[c] = distance;
                    part[c] += distance * distance;
                }
            }
            join(sum, part, width);
        }
        memcpy(l->square_sum + member * l->statistics_stride + from, sum, width * sizeof *sum);
    }
}

/* Batch norm's scale and shift, the residual (NULL: none), ReLU and dropout, into `output`.

   `norm` is batch norm's bias and weight, `norm_stride` elements from a member to the next;
   `keys` has one key for each. */
static void hidden_output(const layer *l, const float *norm, int64_t norm_stride, const float *residual,
                   int64_t residual_stride, const int32_t *keys)
{
    FOR_TILES(l) {
        const int64_t n = l->n_columns, pair = 2 * n * member + from;
        const float *square_sum = l->square_sum + member * l->statistics_stride + from;
        const float *bias = norm + member * norm_stride + from, *weight = bias + n;
        float *gain = l->gain + pair, a[TILE], b[TILE], std[TILE];
        for (int64_t c = 0; c < width; c++) {
            std[c] = 1.0f / sqrtf(l->eps + square_sum[c] * l->share);
            a[c] = weight[c] * std[c];
            b[c] = bias[c] * gain[c];
        }
        memcpy(gain + n, std, width * sizeof *std);
        memcpy(l->affine + pair, b, width * sizeof *b);
        memcpy(l->affine + pair + n, a, width * sizeof *a);
        for (int64_t row = 0; row < l->n_rows; row++) {
            const int64_t at = (member * l->n_rows + row) * n + from;
            const float *restrict v = l->centred + at;
            float *restrict out = l->output + at;
            for (int64_t c = 0; c < width; c++) out[c] = b[c] + v[c] * a[c];
            if (residual) {
                const float *restrict r = residual + member * residual_stride + row * n + from;
                for (int64_t c = 0; c < width; c++) out[c] += r[c];
            }
            /* What is not a number stays so: the trainer must see it. */
            if (l->elements) {
                const int32_t *restrict e = l->elements + row * n + from;
                const int32_t key = keys[member];
                for (int64_t c = 0; c < width; c++)
                    out[c] = dropped(out[c] <= 0.0f ? 0.0f : out[c], e[c], key, l->limit);
            } else {
                for (int64_t c = 0; c < width; c++) out[c] = out[c] <= 0.0f ? 0.0f : out[c];
            }
        }
    }
}

/* Takes `gradient` back through dropout and ReLU; its sums, and batch norm's own gradients. */
static void hidden_sums(const layer *l, float *gradient, float *norm_gradient, int64_t norm_stride)
{
    FOR_TILES(l) {
        const int64_t n = l->n_columns, pair = 2 * n * member + from;
        float sum[TILE] = {0}, product_sum[TILE] = {0}, part[TILE] = {0}, product[TILE] = {0};
        FOR_BLOCKS(l) {
            for (; row < end; row++) {
                const int64_t at = (member * l->n_rows + row) * n + from;
                const float *restrict out = l->output + at, *restrict v = l->centred + at;
                float *restrict g = gradient + at;
                for (int64_t c = 0; c < width; c++) {
                    float kept = out[c] <= 0.0f ? 0.0f : g[c];
                    g[c] = kept;
                    part[c] += kept;
                    product[c] += kept * v[c];
                }
            }
            join(sum, part, width);
            join(product_sum, product, width);
        }
        float *own = norm_gradient + member * norm_stride + from;
        for (int64_t c = 0; c < width; c++) {
            l->sums[pair + c] = sum[c];
            l->sums[pair + n + c] = product_sum[c];
            own[c] = sum[c] * l->gain[pair + c];
            own[n + c] = product_sum[c] * l->gain[pair + n + c];
        }
    }
}

/* The gradient in front of batch norm, into `inner`, from that behind it and the sums. */
static void hidden_inner(const layer *l, const float *gradient, float *inner)
{
    FOR_TILES(l) {
        const int64_t n = l->n_columns, pair = 2 * n * member + from;
        const float *gain = l->gain + pair, *sums = l->sums + pair;
        const float *scale = l->affine + pair + n;
        float a[TILE], mean[TILE], std[TILE];
        for (int64_t c = 0; c < width; c++) {
            float factor = scale[c] * l->minus_share;
            a[c] = scale[c];
            mean[c] = sums[c] * gain[c] * gain[c] * factor;
            std[c] = sums[n + c] * gain[n + c] * gain[n + c] * factor;
        }
        for (int64_t row = 0; row < l->n_rows; row++) {
            const int64_t at = (member * l->n_rows + row) * n + from;
            const float *restrict g = gradient + at, *restrict v = l->centred + at;
            float *restrict to = inner + at;
            for (int64_t c = 0; c < width; c++) to[c] = mean[c] + v[c] * std[c] + g[c] * a[c];
        }
    }
}

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

/* Cross-entropy of logits, members x rows x classes: its gradient of the mean over the rows, and
   per member the sum of the losses, added to `loss_sums`. `chosen` are the rows' places in
   `targets` and `weights` (NULL: all 1), of which there are `n_targets`. What is not a number
   stays so. Returns the first of the rows whose place is none, before any work, or -1.

   A class of a block of rows is treated at once: there are few classes, and many rows. */
static int64_t cross_entropy(int64_t n_members, int64_t n_rows, int64_t n_classes, int64_t n_targets,
                      const float *logits, const int64_t *chosen, const int64_t *targets,
                      const float *weights, float *gradient, float *loss_sums)
{
    const float share = 1.0f / (float)n_rows;
    for (int64_t row = 0; row < n_rows; row++) {
        if (chosen[row] < 0 || chosen[row] >= n_targets) return row;
        PREFETCH(targets + chosen[row]);
    }
    for (int64_t member = 0; member < n_members; member++) {
        double loss = 0.0;
        for (int64_t from = 0; from < n_rows; from += BLOCK) {
            const int64_t n = least(BLOCK, n_rows - from);
            const int64_t at = (member * n_rows + from) * n_classes;
            const float *restrict z = logits + at;
            float *restrict g = gradient + at;
            float largest[BLOCK], sum[BLOCK] = {0}, scale[BLOCK];
            for (int64_t r = 0; r < n; r++) largest[r] = z[r * n_classes];
            for (int64_t c = 1; c < n_classes; c++)
                for (int64_t r = 0; r < n; r++) {
                    const float other = z[r * n_classes + c];
                    largest[r] = other > largest[r] ? other : largest[r];
                }
            for (int64_t c = 0; c < n_classes; c++) {
                float part[BLOCK] = {0};
                for (int64_t r = 0; r < n; r++) part[r] = z[r * n_classes + c] - largest[r];
                for (int64_t r = 0; r < BLOCK; r++) part[r] = exponential(part[r]);
                for (int64_t r = 0; r < n; r++) {
                    sum[r] += part[r];
                    g[r * n_classes + c] = part[r];
                }
            }
            for (int64_t r = 0; r < n; r++) {
                const int64_t row = chosen[from + r], target = targets[row];
                const float weight = weights ? weights[row] : 1.0f;
                scale[r] = weight * share / sum[r];
                loss += weight * (logf(sum[r]) - (z[r * n_classes + target] - largest[r]));
            }
            for (int64_t r = 0; r < n; r++)
                for (int64_t c = 0; c < n_classes; c++) g[r * n_classes + c] *= scale[r];
            for (int64_t r = 0; r < n; r++) {
                const int64_t row = chosen[from + r];
                g[r * n_classes + targets[row]] -= (weights ? weights[row] : 1.0f) * share;
            }
        }
        loss_sums[member] += (float)loss;
    }
    return -1;
}

/* AdamW's step on `size` parameters, of which weight decay acts on the first `n_decayed`; counts
   it in `steps`. What all parameters share is computed in double precision first. */
static void adamw(int64_t size, int64_t n_decayed, float *restrict values, const float *restrict gradients,
           float *restrict first, float *restrict second, float *steps, double learning_rate,
           double weight_decay, double beta1, double beta2, double least)
{
    const double done = *steps += 1.0f;
    const float keep = (float)(1.0 - learning_rate * weight_decay);
    const float rate = (float)(learning_rate / (1.0 - pow(beta1, done)));
    const float second_share = (float)(1.0 / sqrt(1.0 - pow(beta2, done)));
    const float first_change = (float)(1.0 - beta1), second_change = (float)(1.0 - beta2);
    const float second_keep = (float)beta2, eps = (float)least;
    for (int64_t i = 0; i < n_decayed; i++) values[i] *= keep;
    for (int64_t i = 0; i < size; i++) {
        const float g = gradients[i];
        const float m = first[i] + (g - first[i]) * first_change;
        const float v = second[i] * second_keep + second_change * g * g;
        first[i] = m;
        second[i] = v;
        values[i] -= rate * m / (sqrtf(v) * second_share + eps);
    }
}

/* Below, matrices lie row by row; `rows` x `width` and `rows` x `height` are values in front of and
   behind a linear layer, whose weight is `height` x `width`. */

static void values_behind(sgemm *f, int64_t rows, int64_t width, int64_t height, const float *x,
                          const float *weight, float *z)
{
    const float one = 1.0f, zero = 0.0f;
    f("T", "N", &height, &rows, &width, &one, weight, &width, x, &width, &zero, z, &height);
}

static void gradient_of_weight(sgemm *f, int64_t rows, int64_t width, int64_t height, const float *x,
                            const float *z_gradient, float *to)
{
    const float one = 1.0f, zero = 0.0f;
    f("N", "T", &width, &height, &rows, &one, x, &width, z_gradient, &height, &zero, to, &width);
}

static void gradient_in_front(sgemm *f, int64_t rows, int64_t width, int64_t height,
                              const float *weight, const float *z_gradient, float kept, float *to)
{
    const float one = 1.0f;
    f("N", "N", &width, &rows, &height, &one, weight, &width, z_gradient, &height, &kept, to,
      &width);
}

static void few_behind(int64_t rows, int64_t width, int64_t height, const float *x,
                       const float *weight, float *z)
{
    for (int64_t row = 0; row < rows; row++)
        for (int64_t c = 0; c < height; c++) {
            const float *restrict v = x + row * width, *restrict w = weight + c * width;
            /* Sums of every sixteenth: the result is the same however wide vectors are. */
            float lanes[LANES] = {0}, sum = 0.0f;
            int64_t i = 0;
            for (; i + LANES <= width; i += LANES)
                for (int64_t lane = 0; lane < LANES; lane++) lanes[lane] += v[i + lane] * w[i + lane];
            for (int64_t lane = 0; lane < LANES; lane++) sum += lanes[lane];
            for (; i < width; i++) sum += v[i] * w[i];
            z[row * height + c] = sum;
        }
}

static void few_weight_gradient(int64_t rows, int64_t width, int64_t height, const float *x,
                                const float *z_gradient, float *to)
{
    for (int64_t from = 0; from < width; from += TILE) {
        const int64_t n = least(TILE, width - from);
        float sum[FEW_OUTPUTS][TILE] = {{0}}, part[FEW_OUTPUTS][TILE] = {{0}};
        for (int64_t row = 0, end; row < rows;) {
            for (end = least(row + BLOCK, rows); row < end; row++)
                for (int64_t c = 0; c < height; c++) {
                    const float g = z_gradient[row * height + c];
                    const float *restrict v = x + row * width + from;
                    for (int64_t i = 0; i < n; i++) part[c][i] += g * v[i];
                }
            for (int64_t c = 0; c < height; c++) join(sum[c], part[c], n);
        }
        for (int64_t c = 0; c < height; c++)
            memcpy(to + c * width + from, sum[c], n * sizeof *to);
    }
}

static void few_in_front(int64_t rows, int64_t width, int64_t height, const float *weight,
                         const float *z_gradient, float *to)
{
    for (int64_t row = 0; row < rows; row++) {
        float *restrict out = to + row * width;
        for (int64_t c = 0; c < height; c++) {
            const float g = z_gradient[row * height + c], *restrict w = weight + c * width;
            if (c)
                for (int64_t i = 0; i < width; i++) out[i] += g * w[i];
            else
                for (int64_t i = 0; i < width; i++) out[i] = g * w[i];
        }
    }
}

/* The product that forward passes make, alone: whether `f` is what we take it for. */
static void product_alone(sgemm *f, int64_t rows, int64_t width, int64_t height, const float *x,
             const float *weight, float *z)
{
    values_behind(f, rows, width, height, x, weight, z);
}

/* Logits in training mode of `x`, rows x input_dim; running statistics move. */
static void network_forward(const network *n, const float *x)
{
    const float *values = x, *entry = x;
    int64_t width = n->input_dim;
    for (int64_t i = 0; i < n->n_hidden; i++) {
        const hidden *h = n->hidden + i;
        if (h->opens_block) entry = values;
        values_behind(n->product, n->n_rows, width, n->hidden_dim, values, h->weight,
                      h->between->centred);
        hidden_total(h->between);
        hidden_centre(h->between);
        hidden_output(h->between, h->norm, 0, h->closes_block ? entry : NULL, 0, h->key);
        values = h->between->output;
        width = n->hidden_dim;
    }
    if (n->output_dim <= FEW_OUTPUTS)
        few_behind(n->n_rows, width, n->output_dim, values, n->head, n->outer);
    else
        values_behind(n->product, n->n_rows, width, n->output_dim, values, n->head, n->outer);
    for (int64_t row = 0; row < n->n_rows; row++)
        for (int64_t c = 0; c < n->output_dim; c++) {
            const int64_t at = row * n->output_dim + c;
            n->logits[at] = n->outer[at] + n->head_bias[c];
        }
    for (int64_t i = 0; i < n->n_statistics; i++)
        n->running[i] = n->running[i] * n->kept_share + n->sums[i] * n->shares[i];
}

/* All gradients from that in the logits, after the forward pass on the same `x`. */
static void network_backward(const network *n, const float *x, const float *logits_gradient)
{
    const int64_t last = n->n_hidden - 1, n_outer = n->n_rows * n->output_dim;
    const float *values = n->n_hidden ? n->hidden[last].between->output : x;
    float *gradient = n->gradient, *spare = n->spare;
    memcpy(n->outer, logits_gradient, n_outer * sizeof *n->outer);
    const int64_t width = n->n_hidden ? n->hidden_dim : n->input_dim;
    const int is_thin = n->output_dim <= FEW_OUTPUTS;
    if (is_thin)
        few_weight_gradient(n->n_rows, width, n->output_dim, values, n->outer, n->head_gradient);
    else
        gradient_of_weight(n->product, n->n_rows, width, n->output_dim, values, n->outer,
                        n->head_gradient);
    for (int64_t c = 0; c < n->output_dim; c++) {
        double sum = 0.0;
        for (int64_t at = c; at < n_outer; at += n->output_dim) sum += n->outer[at];
        n->head_bias_gradient[c] = (float)sum;
    }
    if (n->n_hidden && is_thin)
        few_in_front(n->n_rows, width, n->output_dim, n->head, n->outer, gradient);
    else if (n->n_hidden)
        gradient_in_front(n->product, n->n_rows, n->hidden_dim, n->output_dim, n->head, n->outer,
                          0.0f, gradient);
    for (int64_t i = last; i >= 0; i--) {
        const hidden *h = n->hidden + i;
        const int in_block = h->opens_block || h->closes_block;
        values = i ? n->hidden[i - 1].between->output : x;
        hidden_sums(h->between, gradient, h->norm_gradient, 0);
        hidden_inner(h->between, gradient, n->scratch);
        gradient_of_weight(n->product, n->n_rows, i ? n->hidden_dim : n->input_dim, n->hidden_dim,
                        values, n->scratch, h->weight_gradient);
        if (!i) break;
        /* Inside a block, the gradient in the shortcut waits in the other buffer. */
        gradient_in_front(n->product, n->n_rows, n->hidden_dim, n->hidden_dim, h->weight,
                          n->scratch, h->opens_block ? 1.0f : 0.0f, in_block ? spare : gradient);
        if (in_block) {
            float *other = gradient;
            gradient = spare;
            spare = other;
        }
    }
}

static const entry functions[] = {
    {"hidden_total", (void *)hidden_total},
    {"hidden_centre", (void *)hidden_centre},
    {"hidden_output", (void *)hidden_output},
    {"hidden_sums", (void *)hidden_sums},
    {"hidden_inner", (void *)hidden_inner},
    {"cross_entropy", (void *)cross_entropy},
    {"adamw", (void *)adamw},
    {"product_alone", (void *)product_alone},
    {"network_forward", (void *)network_forward},
    {"network_backward", (void *)network_backward},
    {NULL, NULL},
};
