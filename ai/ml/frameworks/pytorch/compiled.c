/* What a training step computes besides its matrix products: batch norm, ReLU and dropout,
   forward and backward; the loss's gradient; AdamW.

   The formulas are those of kernels.py, objectives.py and optimizer.py; compiled.py compiles this
   file, has the same struct, and calls these functions. Every column of a member is summed by
   itself, row after row: a sum depends neither on how wide the processor's vectors are nor on
   the members and columns beside it. */

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

static inline float dropped(float value, int32_t element, int32_t key, float limit)
{
    uint32_t bits = (uint32_t)element * (uint32_t)key;
    float hash;
    memcpy(&hash, &bits, sizeof hash);
    return hash <= limit ? 0.0f : value;
}

static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* Over all tiles of all members: `member`, its first column `from`, and its `width`. */
#define FOR_TILES(l)                                                      \
    for (int64_t member = 0; member < (l)->n_members; member++)           \
        for (int64_t from = 0, width; from < (l)->n_columns; from += TILE) \
            if ((width = least(TILE, (l)->n_columns - from)) > 0)

#define FOR_BLOCKS(l) \
    for (int64_t row = 0, end; row < (l)->n_rows && (end = least(row + BLOCK, (l)->n_rows)); )

static inline void join(float *restrict sum, float *restrict part, int64_t width)
{
    for (int64_t c = 0; c < width; c++) {
        sum[c] += part[c];
        part[c] = 0.0f;
    }
}

/* Sums of the columns of `centred`, before anything is taken off. */
void hidden_total(const layer *l)
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
void hidden_centre(const layer *l)
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
void hidden_output(const layer *l, const float *norm, int64_t norm_stride, const float *residual,
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
void hidden_sums(const layer *l, float *gradient, float *norm_gradient, int64_t norm_stride)
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
void hidden_inner(const layer *l, const float *gradient, float *inner)
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
   `targets` and `weights` (NULL: all 1). What is not a number stays so. */
void cross_entropy(int64_t n_members, int64_t n_rows, int64_t n_classes, const float *logits,
                   const int64_t *chosen, const int64_t *targets, const float *weights,
                   float *gradient, float *loss_sums)
{
    for (int64_t member = 0; member < n_members; member++) {
        double loss = 0.0;
        for (int64_t row = 0; row < n_rows; row++) {
            const int64_t at = (member * n_rows + row) * n_classes, target = targets[chosen[row]];
            const float *restrict z = logits + at;
            float *restrict g = gradient + at;
            const float weight = weights ? weights[chosen[row]] : 1.0f;
            float largest = z[0], sum = 0.0f;
            for (int64_t c = 1; c < n_classes; c++) largest = z[c] > largest ? z[c] : largest;
            for (int64_t c = 0; c < n_classes; c++) g[c] = exponential(z[c] - largest);
            for (int64_t c = 0; c < n_classes; c++) sum += g[c];
            const float scale = weight / (sum * (float)n_rows);
            for (int64_t c = 0; c < n_classes; c++) g[c] *= scale;
            g[target] -= weight / (float)n_rows;
            loss += weight * (logf(sum) - (z[target] - largest));
        }
        loss_sums[member] += (float)loss;
    }
}

/* AdamW's step on `size` parameters, of which weight decay acts on the first `n_decayed`. */
void adamw(int64_t size, int64_t n_decayed, float *restrict values, const float *restrict gradients,
           float *restrict first, float *restrict second, float keep, float rate,
           float first_change, float beta2, float second_change, float second_share, float eps)
{
    for (int64_t i = 0; i < n_decayed; i++) values[i] *= keep;
    for (int64_t i = 0; i < size; i++) {
        const float g = gradients[i];
        const float m = first[i] + (g - first[i]) * first_change;
        const float v = second[i] * beta2 + g * g * second_change;
        first[i] = m;
        second[i] = v;
        values[i] -= rate * m / (sqrtf(v) * second_share + eps);
    }
}
