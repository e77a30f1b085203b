// The gradient of LayerNorm without scale and bias, of rows of C numbers; all sums in float32.
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

template <int CHUNKS> FUNCTION void gradient(const MAP *x, const BRANCH *g, MAP *dx) {
  const int row = blockIdx.x * blockDim.y + threadIdx.y;
  const long long begin = (long long)row * C();
  Chunk<MAP> values[CHUNKS];
  Chunk<BRANCH> gradients[CHUNKS];
  int column[CHUNKS];
  bool is_there[CHUNKS];
#pragma unroll
  for (int i = 0; i < CHUNKS; i++) {
    column[i] = (i * LANES() + threadIdx.x) * AT_ONCE;
    is_there[i] = row < ROWS() && column[i] < C();
    values[i] = is_there[i] ? *(const Chunk<MAP> *)(x + begin + column[i]) : Chunk<MAP>{};
    gradients[i] = is_there[i] ? *(const Chunk<BRANCH> *)(g + begin + column[i]) : Chunk<BRANCH>{};
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
  const float rstd = 1.f / sqrtf(sum_of_row(squares) / C() + as_float(EPS()));

  float sum_g = 0.f, along = 0.f;
#pragma unroll
  for (int i = 0; i < CHUNKS; i++)
#pragma unroll
    for (int j = 0; j < AT_ONCE; j++) {
      const float one = widen(gradients[i].at[j]);
      sum_g += one;
      along += one * (widen(values[i].at[j]) - mean);
    }
  const float mean_g = sum_of_row(sum_g) / C();
  const float mean_along = sum_of_row(along) / C() * rstd * rstd;

#pragma unroll
  for (int i = 0; i < CHUNKS; i++) {
    Chunk<MAP> out;
#pragma unroll
    for (int j = 0; j < AT_ONCE; j++) {
      const float centred = widen(values[i].at[j]) - mean;
      narrow(rstd * (widen(gradients[i].at[j]) - mean_g - centred * mean_along), &out.at[j]);
    }
    if (is_there[i]) *(Chunk<MAP> *)(dx + begin + column[i]) = out;
  }
}

#define STANDARDIZE_GRADIENT(CHUNKS, BLOCKS)                                                     \
  KERNEL(BLOCKS) standardize_gradient_##CHUNKS(const MAP *RESTRICT x, const BRANCH *RESTRICT g, \
                                               MAP *RESTRICT dx) {                              \
    gradient<CHUNKS>(x, g, dx);                                                                 \
  }
STANDARDIZE_GRADIENT(1, 3)
STANDARDIZE_GRADIENT(2, 3)
STANDARDIZE_GRADIENT(3, 3)
STANDARDIZE_GRADIENT(4, 3)
STANDARDIZE_GRADIENT(6, 3)
STANDARDIZE_GRADIENT(8, 3)
STANDARDIZE_GRADIENT(12, 2)
