// The gradients of LayerNorm, without and with scale and bias, of rows of C numbers; all sums in
// float32.
//
// LANES threads of a warp have a row, each CHUNKS times AT_ONCE neighbouring numbers, which stay in
// registers: what the row is normalised by is computed again, and x and g are read once.
//
// MAP is the type of x and of its gradient, BRANCH that of the result and of its gradient. C, ROWS
// and LANES are names in the PTX, which ptx.py replaces by numbers, as EPS by its bits. AT_ONCE
// divides C.

constexpr int THREADS = 128, AT_ONCE = 8;

SIZE(ROWS)
SIZE(C)
SIZE(LANES)
SIZE(EPS)

#include "numbers.cuh"

// In memory AT_ONCE numbers lie at a multiple of 16 bytes.
template <class T> struct alignas(16) Chunk {
  T at[AT_ONCE];
};

// The sum over all threads of a row.
FUNCTION float sum_of_row(float value) {
  for (int mask = LANES() / 2; mask > 0; mask /= 2) value += SHUFFLE_XOR(value, mask);
  return value;
}

// A number of each column that a thread has.
template <int CHUNKS> struct Columns {
  float at[CHUNKS][AT_ONCE];
};

// The gradient of a row. If SCALES, the result was multiplied by `scale`, and scales and biases get
// the row's part of the gradients of scale and bias.
template <int CHUNKS, bool SCALES>
FUNCTION void gradient_of_row(const MAP *x, const BRANCH *g, MAP *dx, bool is_row,
                              const Columns<CHUNKS> &scale, Columns<CHUNKS> &scales,
                              Columns<CHUNKS> &biases) {
  Chunk<MAP> values[CHUNKS];
  Chunk<BRANCH> gradients[CHUNKS];
  int column[CHUNKS];
  bool is_there[CHUNKS];
#pragma unroll
  for (int i = 0; i < CHUNKS; i++) {
    column[i] = (i * LANES() + threadIdx.x) * AT_ONCE;
    is_there[i] = is_row && column[i] < C();
    values[i] = is_there[i] ? *(const Chunk<MAP> *)(x + column[i]) : Chunk<MAP>{};
    gradients[i] = is_there[i] ? *(const Chunk<BRANCH> *)(g + column[i]) : Chunk<BRANCH>{};
  }

  float sum = 0.f;
#pragma unroll
  for (int i = 0; i < CHUNKS; i++)
#pragma unroll
    for (int j = 0; j < AT_ONCE; j++) sum += widen(values[i].at[j]);
  const float mean = sum_of_row(sum) / C();

  float squares = 0.f;
#pragma unroll
  for (int i = 0; i < CHUNKS; i++)
#pragma unroll
    for (int j = 0; j < AT_ONCE; j++) {
      const float centred = is_there[i] ? widen(values[i].at[j]) - mean : 0.f;
      squares += centred * centred;
    }
  const float variance = sum_of_row(squares) / C();
  const float rstd = is_row ? 1.f / sqrtf(variance + as_float(EPS())) : 0.f;

  float sum_g = 0.f, along = 0.f;
#pragma unroll
  for (int i = 0; i < CHUNKS; i++)
#pragma unroll
    for (int j = 0; j < AT_ONCE; j++) {
      const float one = widen(gradients[i].at[j]), centred = widen(values[i].at[j]) - mean;
      const float scaled = SCALES ? one * scale.at[i][j] : one;
      sum_g += scaled;
      along += scaled * centred;
      if (SCALES) {
        scales.at[i][j] += one * centred * rstd;
        biases.at[i][j] += one;
      }
    }
  const float mean_g = sum_of_row(sum_g) / C();
  const float mean_along = sum_of_row(along) / C() * rstd * rstd;

#pragma unroll
  for (int i = 0; i < CHUNKS; i++) {
    Chunk<MAP> out;
#pragma unroll
    for (int j = 0; j < AT_ONCE; j++) {
      const float one = widen(gradients[i].at[j]), centred = widen(values[i].at[j]) - mean;
      const float scaled = SCALES ? one * scale.at[i][j] : one;
      narrow(rstd * (scaled - mean_g - centred * mean_along), &out.at[j]);
    }
    if (is_there[i]) *(Chunk<MAP> *)(dx + column[i]) = out;
  }
}

template <int CHUNKS> FUNCTION void standardize_gradient(const MAP *x, const BRANCH *g, MAP *dx) {
  const int row = blockIdx.x * blockDim.y + threadIdx.y;
  const long long begin = (long long)row * C();
  Columns<CHUNKS> none = {};
  gradient_of_row<CHUNKS, false>(x + begin, g + begin, dx + begin, row < ROWS(), none, none,
                                 none);
}

// A block has ROWS of the rows. sums [gridDim.x, 2, C] are of the gradients of scale and bias, to be
// added up along the first axis: there is no atomic, and so the order is always the same.
template <int CHUNKS>
FUNCTION void layer_norm_gradients(const MAP *x, const BRANCH *g, const float *scale, MAP *dx,
                                   float *sums) {
  Columns<CHUNKS> own_scale, scales = {}, biases = {};
#pragma unroll
  for (int i = 0; i < CHUNKS; i++)
#pragma unroll
    for (int j = 0; j < AT_ONCE; j++) {
      const int column = (i * LANES() + threadIdx.x) * AT_ONCE + j;
      own_scale.at[i][j] = column < C() ? scale[column] : 0.f;
    }
  for (int first = 0; first < ROWS(); first += blockDim.y) {
    const int row = first + threadIdx.y;
    const long long begin = ((long long)blockIdx.x * ROWS() + row) * C();
    gradient_of_row<CHUNKS, true>(x + begin, g + begin, dx + begin, row < ROWS(), own_scale, scales,
                                  biases);
  }
  SHARED float shared[2][AT_ONCE][THREADS];
  const int thread = threadIdx.y * blockDim.x + threadIdx.x;
#pragma unroll
  for (int i = 0; i < CHUNKS; i++) {
    SYNCHRONIZE();
#pragma unroll
    for (int j = 0; j < AT_ONCE; j++) {
      shared[0][j][thread] = scales.at[i][j];
      shared[1][j][thread] = biases.at[i][j];
    }
    SYNCHRONIZE();
    for (int t = threadIdx.y; t < 2 * AT_ONCE; t += blockDim.y) {
      const int which = t / AT_ONCE, j = t % AT_ONCE;
      const int column = (i * LANES() + threadIdx.x) * AT_ONCE + j;
      float sum = 0.f;
      for (int s = 0; s < blockDim.y; s++) sum += shared[which][j][s * blockDim.x + threadIdx.x];
      if (column < C()) sums[(blockIdx.x * 2LL + which) * C() + column] = sum;
    }
  }
}

#define STANDARDIZE_GRADIENT(CHUNKS, BLOCKS)                                                     \
  KERNEL(BLOCKS) standardize_gradient_##CHUNKS(const MAP *RESTRICT x, const BRANCH *RESTRICT g, \
                                               MAP *RESTRICT dx) {                              \
    standardize_gradient<CHUNKS>(x, g, dx);                                                     \
  }
STANDARDIZE_GRADIENT(1, 3)
STANDARDIZE_GRADIENT(2, 3)
STANDARDIZE_GRADIENT(3, 3)
STANDARDIZE_GRADIENT(4, 3)
STANDARDIZE_GRADIENT(6, 3)
STANDARDIZE_GRADIENT(8, 3)
STANDARDIZE_GRADIENT(12, 2)

#define LAYER_NORM_GRADIENTS(CHUNKS)                                                            \
  KERNEL(3) layer_norm_gradients_##CHUNKS(const MAP *RESTRICT x, const BRANCH *RESTRICT g,      \
                                          const float *RESTRICT scale, MAP *RESTRICT dx,        \
                                          float *RESTRICT sums) {                               \
    layer_norm_gradients<CHUNKS>(x, g, scale, dx, sums);                                        \
  }
LAYER_NORM_GRADIENTS(1)
LAYER_NORM_GRADIENTS(2)
LAYER_NORM_GRADIENTS(3)
