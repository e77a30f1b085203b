// Depthwise 7x7 convolution of maps [N, H, W, C]: stride 1, zeros around the map, sums in float32.
//
// A thread has one channel of one strip, COLUMNS columns of an image, and goes down its rows. Its
// neighbours have the next channels, so that a warp reads and writes memory that lies together. The
// 49 weights and all sums are in registers; each pixel of a strip is loaded once, the next row while
// the last one is computed.
//
// MAP is the type of x and of its gradient, BRANCH that of the kernel, of the result and of its
// gradient. WHOLE says that COLUMNS divides W, so that no column has to be checked. N, H, W and C
// are names in the PTX, which ptx.py replaces by numbers.

constexpr int K = 7, R = K / 2, TAPS = K * K, SUMS = TAPS + 1, SPAN = COLUMNS + K - 1;
constexpr int THREADS = 128;

SIZE(N)
SIZE(H)
SIZE(W)
SIZE(C)

#include "numbers.cuh"

FUNCTION int strips_of_a_row() { return (W() + COLUMNS - 1) / COLUMNS; }
FUNCTION bool is_column(int column) { return 0 <= column && column < W(); }

// Where the first row of a strip lies, for a channel; its other columns and rows follow at steps of
// C and W * C.
struct Strip {
  long long begin;
  int left;
};
FUNCTION Strip strip_of(int index, int channel) {
  const int image = index / strips_of_a_row(), left = index % strips_of_a_row() * COLUMNS;
  return {((long long)image * H() * W() + left) * C() + channel, left};
}

// The columns that a strip of the result needs: R more on either side.
template <class T> FUNCTION void load_wide(T (&row)[SPAN], const T *from, int left, bool is_row) {
#pragma unroll
  for (int j = 0; j < SPAN; j++) {
    // Of a strip of COLUMNS that lies inside, only those beside it may be outside.
    const bool is_inside = WHOLE && R <= j && j < COLUMNS + R;
    row[j] = is_row && (is_inside || is_column(left + j - R)) ? from[(j - R) * C()] : T{};
  }
}
template <class T> FUNCTION void load(T (&row)[COLUMNS], const T *from, int left, bool is_row) {
#pragma unroll
  for (int j = 0; j < COLUMNS; j++)
    row[j] = is_row && (WHOLE || is_column(left + j)) ? from[j * C()] : T{};
}

// y = x * kernel + bias; FLIPPED is the gradient of x, without a bias, and with ADDS plus an addend
// of y's shape.
template <bool FLIPPED, bool ADDS, class X, class Y>
FUNCTION void convolve(const X *x, const BRANCH *kernel, const float *bias, const Y *addend, Y *y,
                       int channel, int index) {
  const Strip strip = strip_of(index, channel);
  const int row_step = W() * C();
  float weight[TAPS];
#pragma unroll
  for (int tap = 0; tap < TAPS; tap++)
    weight[tap] = widen(kernel[(FLIPPED ? TAPS - 1 - tap : tap) * C() + channel]);
  const float offset = FLIPPED ? 0.f : bias[channel];

  // When row r of x is there, sums[i] is of row r - R + i of y; sums[0] is then complete.
  float sums[K][COLUMNS] = {};
  X next[SPAN];
  load_wide(next, x + strip.begin, strip.left, true);
  for (int r = 0; r < H() + R; r++) {
    float row[SPAN];
#pragma unroll
    for (int j = 0; j < SPAN; j++) row[j] = widen(next[j]);
    load_wide(next, x + strip.begin + (r + 1LL) * row_step, strip.left, r + 1 < H());
    const long long to = strip.begin + (r - R) * (long long)row_step;
    Y added[COLUMNS];
    if (ADDS) load(added, addend + to, strip.left, r >= R);

    if (r < H()) {
#pragma unroll
      for (int i = 0; i < K; i++)
#pragma unroll
        for (int j = 0; j < COLUMNS; j++)
#pragma unroll
          for (int k = 0; k < K; k++) sums[K - 1 - i][j] += row[j + k] * weight[i * K + k];
    }
    if (r >= R) {
#pragma unroll
      for (int j = 0; j < COLUMNS; j++) {
        const float rest = ADDS ? widen(added[j]) : offset;
        const float sum = ADDS || !FLIPPED ? sums[0][j] + rest : sums[0][j];
        if (WHOLE || is_column(strip.left + j)) narrow(sum, y + to + j * C());
      }
    }
#pragma unroll
    for (int i = 0; i < K; i++)
#pragma unroll
      for (int j = 0; j < COLUMNS; j++) sums[i][j] = i + 1 < K ? sums[i + 1][j] : 0.f;
  }
}

// Adds the strip's part of the kernel's gradient to sums, and that of the bias to the last of them.
FUNCTION void correlate(const MAP *x, const BRANCH *g, float (&sums)[SUMS], int channel, int index) {
  const Strip strip = strip_of(index, channel);
  const int row_step = W() * C();

  // Row r of g is in window[r % K], those of r - R to r + R when row r of x is there.
  float window[K][COLUMNS] = {};
  BRANCH g_next[COLUMNS];
#pragma unroll
  for (int r = 0; r < R; r++) {
    load(g_next, g + strip.begin + (long long)r * row_step, strip.left, r < H());
#pragma unroll
    for (int j = 0; j < COLUMNS; j++) {
      window[r][j] = widen(g_next[j]);
      sums[TAPS] += window[r][j];
    }
  }
  MAP x_next[SPAN];
  load_wide(x_next, x + strip.begin, strip.left, true);
  load(g_next, g + strip.begin + (long long)R * row_step, strip.left, R < H());
  for (int first = 0; first < H(); first += K) {
#pragma unroll
    for (int i = 0; i < K; i++) {  // so that r % K is known
      const int r = first + i;
      if (r >= H()) break;
      float row[SPAN];
#pragma unroll
      for (int j = 0; j < SPAN; j++) row[j] = widen(x_next[j]);
#pragma unroll
      for (int j = 0; j < COLUMNS; j++) {
        window[(i + R) % K][j] = widen(g_next[j]);
        sums[TAPS] += window[(i + R) % K][j];
      }
      const long long below = strip.begin + (r + 1LL) * row_step;
      load_wide(x_next, x + below, strip.left, r + 1 < H());
      load(g_next, g + below + (long long)R * row_step, strip.left, r + 1 + R < H());
#pragma unroll
      for (int tap_row = 0; tap_row < K; tap_row++)
#pragma unroll
        for (int k = 0; k < K; k++)
#pragma unroll
          for (int j = 0; j < COLUMNS; j++)
            sums[tap_row * K + k] += row[j + k] * window[(i + R - tap_row + K) % K][j];
    }
  }
}

// A block has channels along x and strips along y; the grid has strips along x, channels along y.
FUNCTION int this_channel() { return blockIdx.y * blockDim.x + threadIdx.x; }
FUNCTION int this_strip() { return blockIdx.x * blockDim.y + threadIdx.y; }
FUNCTION bool has_work() { return this_channel() < C() && this_strip() < N() * strips_of_a_row(); }

KERNEL depthwise_forward(const MAP *RESTRICT x, const BRANCH *RESTRICT kernel,
                         const float *RESTRICT bias, BRANCH *RESTRICT y) {
  if (has_work())
    convolve<false, false>(x, kernel, bias, (const BRANCH *)0, y, this_channel(), this_strip());
}

KERNEL depthwise_input_gradient(const BRANCH *RESTRICT g, const BRANCH *RESTRICT kernel,
                                MAP *RESTRICT dx) {
  if (has_work())
    convolve<true, false>(g, kernel, 0, (const MAP *)0, dx, this_channel(), this_strip());
}

KERNEL depthwise_input_gradient_plus(const BRANCH *RESTRICT g, const BRANCH *RESTRICT kernel,
                                     const MAP *RESTRICT addend, MAP *RESTRICT dx) {
  if (has_work()) convolve<true, true>(g, kernel, 0, addend, dx, this_channel(), this_strip());
}

// sums [gridDim.x, SUMS, C], to be added up along the first axis: there is no atomic, and so the
// order is always the same.
KERNEL depthwise_kernel_gradient(const MAP *RESTRICT x, const BRANCH *RESTRICT g,
                                 float *RESTRICT sums) {
  constexpr int AT_ONCE = 10;  // of the SUMS, in shared memory
  SHARED float shared[AT_ONCE][THREADS];
  const int channel = this_channel(), thread = threadIdx.y * blockDim.x + threadIdx.x;
  float own[SUMS] = {};
  if (channel < C())
    for (int strip = this_strip(); strip < N() * strips_of_a_row();
         strip += gridDim.x * blockDim.y)
      correlate(x, g, own, channel, strip);
#pragma unroll
  for (int first = 0; first < SUMS; first += AT_ONCE) {
#pragma unroll
    for (int t = 0; t < AT_ONCE; t++) shared[t][thread] = own[first + t];
    SYNCHRONIZE();
    for (int t = threadIdx.y; t < AT_ONCE; t += blockDim.y) {
      float sum = 0.f;
      for (int s = 0; s < blockDim.y; s++) sum += shared[t][s * blockDim.x + threadIdx.x];
      if (channel < C())
        sums[((long long)blockIdx.x * SUMS + first + t) * C() + channel] = sum;
    }
    SYNCHRONIZE();
  }
}
