/* A gpt in plain float32 loops, as llama2.c's run.c computes: one loop per row of a matrix, attention head by head.
   docs/loops.py compiles and calls it.

   Shapes: L applications of a block, S positions in the cache, C width, H heads, D head width, M hidden width,
   V vocabulary, N rows of a matrix and K columns. A matrix is stored row by row. */

#include <float.h>
#include <math.h>
#include <string.h>

typedef struct {
    int vocab, context, layers, loops, heads, width, hidden;
    float theta, epsilon;  /* the base of the rotary positions; what RMSNorm adds to the mean square */
} Shape;

/* y (N) = matrix (N, K) times x (K) */
static void multiply(float *restrict y, const float *restrict matrix, const float *restrict x, int N, int K) {
    for (int n = 0; n < N; n++) {
        const float *row = matrix + (size_t)n * K;
        float sum = 0;
        for (int k = 0; k < K; k++) sum += row[k] * x[k];
        y[n] = sum;
    }
}

/* RMSNorm: y (N) = x (N) / root mean square of x, times weight (N); y may be x */
static void normalise(float *y, const float *x, const float *weight, int N, float epsilon) {
    float squares = 0;
    for (int n = 0; n < N; n++) squares += x[n] * x[n];
    float scale = 1 / sqrtf(squares / N + epsilon);
    for (int n = 0; n < N; n++) y[n] = weight[n] * (scale * x[n]);
}

/* rotate-half: x (D) by the angles of its position, given as cosines and sines (D / 2) */
static void rotate(float *x, const float *cosine, const float *sine, int D) {
    for (int d = 0; d < D / 2; d++) {
        float left = x[d], right = x[d + D / 2];
        x[d] = left * cosine[d] - right * sine[d];
        x[d + D / 2] = right * cosine[d] + left * sine[d];
    }
}

/* One head at position `last`: y (D) from its q (D), and from keys and values (S, C) that begin at its first column */
static void attend(float *y, const float *q, const float *keys, const float *values, int last, int C, int D) {
    float scores[last + 1], largest = -FLT_MAX, sum = 0, scale = 1 / sqrtf(D);
    for (int t = 0; t <= last; t++) {
        float score = 0;
        for (int d = 0; d < D; d++) score += q[d] * keys[(size_t)t * C + d];
        scores[t] = score * scale;
        if (scores[t] > largest) largest = scores[t];
    }
    for (int t = 0; t <= last; t++) sum += scores[t] = expf(scores[t] - largest);
    memset(y, 0, D * sizeof(float));
    for (int t = 0; t <= last; t++) {
        float weight = scores[t] / sum;
        for (int d = 0; d < D; d++) y[d] += weight * values[(size_t)t * C + d];
    }
}

/* Reads the symbol `id` at `position`: writes logits (V) and this position's keys and values into cache (L, 2, S, C).
   The weights follow one another in the order of ModelConfig.shapes(). */
void feed(const Shape *shape, const float *weights, float *cache, float *logits, int id, int position) {
    int V = shape->vocab, C = shape->width, H = shape->heads, D = C / H, M = shape->hidden;
    size_t half = (size_t)shape->context * C;  /* the keys of one application of a block */
    float x[C], y[C], qkv[3 * C], heads[C], gate_up[2 * M], cosine[D / 2], sine[D / 2];
    float epsilon = shape->epsilon, *q = qkv, *k = qkv + C, *v = qkv + 2 * C, *up = gate_up + M;
    for (int d = 0; d < D / 2; d++) {
        double angle = position * pow(shape->theta, -2.0 * d / D);
        cosine[d] = cos(angle), sine[d] = sin(angle);
    }
    memcpy(x, weights + (size_t)id * C, C * sizeof(float));
    const float *last_norm = weights + (size_t)V * C, *blocks = last_norm + C, *w = blocks;
    for (int layer = 0; layer < shape->layers * shape->loops; layer++, cache += 2 * half) {
        if (layer % shape->layers == 0) w = blocks;
        normalise(y, x, w, C, epsilon), w += C;
        multiply(qkv, w, y, 3 * C, C), w += (size_t)3 * C * C;
        const float *q_norm = w, *k_norm = w + D;
        w += 2 * D;
        for (int h = 0; h < H; h++) {
            normalise(q + h * D, q + h * D, q_norm, D, epsilon), rotate(q + h * D, cosine, sine, D);
            normalise(k + h * D, k + h * D, k_norm, D, epsilon), rotate(k + h * D, cosine, sine, D);
        }
        memcpy(cache + (size_t)position * C, k, C * sizeof(float));
        memcpy(cache + half + (size_t)position * C, v, C * sizeof(float));
        for (int h = 0; h < H; h++) attend(heads + h * D, q + h * D, cache + h * D, cache + half + h * D, position, C, D);
        multiply(y, w, heads, C, C), w += (size_t)C * C;
        for (int c = 0; c < C; c++) x[c] += y[c];
        normalise(y, x, w, C, epsilon), w += C;
        multiply(gate_up, w, y, 2 * M, C), w += (size_t)2 * M * C;
        for (int m = 0; m < M; m++) gate_up[m] *= up[m] / (1 + expf(-gate_up[m]));  /* SwiGLU */
        multiply(y, w, gate_up, C, M), w += (size_t)C * M;
        for (int c = 0; c < C; c++) x[c] += y[c];
    }
    normalise(y, x, last_norm, C, epsilon);
    multiply(logits, weights, y, V, C);  /* the head is the embedding */
}
