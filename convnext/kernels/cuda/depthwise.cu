// Depthwise 7x7 convolution of maps [N, H, W, C]: stride 1, zeros around the map, sums in float32.
//
// A thread has one channel of one strip, COLUMNS columns of an image, and goes down its rows. The 49
// weights and all sums are in registers. Each row of a strip comes through shared memory, where it is
// asked for AHEAD rows before it is needed. The threads beside it have the next channels, so that a
// warp reads and writes memory that lies together.
//
// MAP is the type of x and of its gradient, BRANCH that of the kernel, of the result and of its
// gradient. N, H, W and C are names in the PTX, which ptx.py replaces by numbers, so that the assembler
// drops what they rule out. Where C is a multiple of 4 or 8, so is the number of channels of a block.

constexpr int K = 7, R = K / 2, TAPS = K * K, SUMS = TAPS + 1, SPAN = COLUMNS + K - 1;
constexpr int THREADS = 128, AHEAD = 3, SLOTS = AHEAD + 1;

SIZE(N)
SIZE(H)
SIZE(W)
SIZE(C)

#include "numbers.cuh"

// A block has channels along x and strips along y; the grid has strips along x, channels along y.
FUNCTION int this_channel() { return blockIdx.y * blockDim.x + threadIdx.x; }
FUNCTION int this_thread() { return threadIdx.y * blockDim.x + threadIdx.x; }

FUNCTION int strips_of_a_row() { return (W() + COLUMNS - 1) / COLUMNS; }
FUNCTION int number_of_strips() { return N() * strips_of_a_row(); }

struct Strip {
  int left;
  bool is_there;      // the last blocks have threads without one
  bool has[COLUMNS];  // that lie on the map
  long long begin;    // its first pixel in this thread's channel; the next ones are C and W * C away

  FUNCTION Strip(int index) {
    const int image = index / strips_of_a_row();
    left = index % strips_of_a_row() * COLUMNS;
    is_there = index < number_of_strips() && this_channel() < C();
#pragma unroll
    for (int j = 0; j < COLUMNS; j++)
      has[j] = is_there && (W() % COLUMNS == 0 || left + j < W());
    begin = ((long long)image * H() * W() + left) * C() + this_channel();
  }
  template <class T> FUNCTION float pixel(const T *map, int row, int column) const {
    return row < H() && has[column] ? widen(map[begin + (row * W() + column) * C()]) : 0.f;
  }
};

// The rows of a strip, one after the other, on their way to a ring of SLOTS rows in shared memory:
// COLUMNS of them, or WIDTH with as many beside them on either side.
template <class T, int WIDTH> struct Rows {
  // As many threads load for one another: each of them columns of its own, but of all their channels.
  // Where C is no multiple of them, 16 bytes have no place to begin: each loads its own channel.
  static constexpr int LANES = 16 / sizeof(T), LOADS = (WIDTH + LANES - 1) / LANES;
  static constexpr int BESIDE = (WIDTH - COLUMNS) / 2;
  struct alignas(16) Ring {
    T at[SLOTS][LOADS * LANES][THREADS];
  };

  Ring &ring;
  const Strip &strip;
  SharedAddress to;
  const T *from, *own;
  int bytes[LOADS];

  FUNCTION Rows(Ring &ring, const T *map, const Strip &strip, int first_row)
      : ring(ring), strip(strip) {
    const int lane = this_thread() % LANES, left = lane - BESIDE;
    to = shared_address(&ring.at[0][lane][this_thread() - lane]);
    own = map + strip.begin + ((long long)first_row * W() - BESIDE) * C();
    from = own + lane * C() - lane;
#pragma unroll
    for (int i = 0; i < LOADS; i++) {
      const int column = strip.left + left + i * LANES;
      const bool is_wanted = lane + i * LANES < WIDTH && strip.is_there;
      bytes[i] = is_wanted && 0 <= column && column < W() ? 16 : 0;
    }
  }
  FUNCTION void send_next(int slot) {
    if (C() % LANES == 0) {
#pragma unroll
      for (int i = 0; i < LOADS; i++)
        send_16(to + (slot * LOADS + i) * LANES * THREADS * (int)sizeof(T), from + i * LANES * C(),
                bytes[i]);
    } else {
#pragma unroll 1
      for (int j = 0; j < WIDTH; j++) {
        const int column = strip.left + j - BESIDE;
        const bool is_on_map = strip.is_there && 0 <= column && column < W();
        ring.at[slot][j][this_thread()] = is_on_map ? own[j * C()] : T{};
      }
    }
    from += W() * C();
    own += W() * C();
  }
};

// y = x * kernel + bias; FLIPPED is the gradient of x, without a bias, and with ADDS plus an addend
// of y's shape.
template <bool FLIPPED, bool ADDS, class X, class Y>
FUNCTION void convolve(const X *x, const BRANCH *kernel, const float *bias, const Y *addend, Y *y) {
  typedef Rows<X, SPAN> RowsOfX;
  typedef Rows<Y, COLUMNS> RowsOfAddend;
  SHARED typename RowsOfX::Ring x_ring;
  SHARED typename RowsOfAddend::Ring addend_ring;
  const Strip strip(blockIdx.x * blockDim.y + threadIdx.y);
  RowsOfX x_rows(x_ring, x, strip, 0);
  RowsOfAddend addend_rows(addend_ring, addend, strip, R);
  const auto send = [&](int r) {
    if (r < H()) x_rows.send_next(r % SLOTS);
    if (ADDS && r + R < H()) addend_rows.send_next(r % SLOTS);
    end_of_group();
  };
#pragma unroll
  for (int r = 0; r < AHEAD; r++) send(r);

  const int channel = strip.is_there ? this_channel() : 0;
  float weight[TAPS];
#pragma unroll
  for (int tap = 0; tap < TAPS; tap++)
    weight[tap] = widen(kernel[(FLIPPED ? TAPS - 1 - tap : tap) * C() + channel]);
  const float offset = FLIPPED ? 0.f : bias[channel];

  // Row r of x adds to rows r - R to r + R of y, of which row q has its sums in sums[(q + R) % K].
  float sums[K][COLUMNS];
#pragma unroll
  for (int i = 0; i < K; i++)
#pragma unroll
    for (int j = 0; j < COLUMNS; j++)
      sums[i][j] = i < R ? 0.f : ADDS ? strip.pixel(addend, i - R, j) : offset;
  Y *to = y + strip.begin;
  for (int first = 0; first < H() + R; first += K) {
#pragma unroll
    for (int i = 0; i < K; i++) {  // so that r % K is known
      const int r = first + i;
      if (r >= H() + R) break;
      if (r < H()) {
        wait_for_groups<AHEAD - 1>();
        SYNCHRONIZE_WARP();
        send(r + AHEAD);
        float row[SPAN];
#pragma unroll
        for (int j = 0; j < SPAN; j++) row[j] = widen(x_ring.at[r % SLOTS][j][this_thread()]);
#pragma unroll
        for (int j = 0; j < COLUMNS; j++)
          sums[(i + K - 1) % K][j] =
              ADDS ? widen(addend_ring.at[r % SLOTS][j][this_thread()]) : offset;
#pragma unroll
        for (int tap_row = 0; tap_row < K; tap_row++)
#pragma unroll
          for (int j = 0; j < COLUMNS; j++)
#pragma unroll
            for (int k = 0; k < K; k++)
              sums[(i + K - 1 - tap_row) % K][j] += row[j + k] * weight[tap_row * K + k];
      }
      if (r >= R) {
#pragma unroll
        for (int j = 0; j < COLUMNS; j++)
          if (strip.has[j]) narrow(sums[i][j], to + j * C());
        to += W() * C();
      }
    }
  }
}

struct GradientRings {
  Rows<MAP, SPAN>::Ring x;
  Rows<BRANCH, COLUMNS>::Ring g;
};

// Adds the strip's part of the kernel's gradient to sums, and that of the bias to the last of them.
FUNCTION void correlate(GradientRings &rings, const MAP *x, const BRANCH *g, const Strip &strip,
                        float (&sums)[SUMS]) {
  Rows<MAP, SPAN> x_rows(rings.x, x, strip, 0);
  Rows<BRANCH, COLUMNS> g_rows(rings.g, g, strip, R);
  const auto send = [&](int r) {
    if (r < H()) x_rows.send_next(r % SLOTS);
    if (r + R < H()) g_rows.send_next(r % SLOTS);
    end_of_group();
  };
  SYNCHRONIZE_WARP();
#pragma unroll
  for (int r = 0; r < AHEAD; r++) send(r);

  // Row r of g is in window[r % K], those of r - R to r + R when row r of x is there.
  float window[K][COLUMNS];
#pragma unroll
  for (int i = 0; i < K; i++)
#pragma unroll
    for (int j = 0; j < COLUMNS; j++) {
      window[i][j] = i < R ? strip.pixel(g, i, j) : 0.f;
      if (i < R) sums[TAPS] += window[i][j];
    }
  for (int first = 0; first < H(); first += K) {
#pragma unroll
    for (int i = 0; i < K; i++) {  // so that r % K is known
      const int r = first + i;
      if (r >= H()) break;
      wait_for_groups<AHEAD - 1>();
      SYNCHRONIZE_WARP();
      send(r + AHEAD);
      float row[SPAN];
#pragma unroll
      for (int j = 0; j < SPAN; j++) row[j] = widen(rings.x.at[r % SLOTS][j][this_thread()]);
      const bool is_row = r + R < H();
#pragma unroll
      for (int j = 0; j < COLUMNS; j++) {
        const float pixel = is_row ? widen(rings.g.at[r % SLOTS][j][this_thread()]) : 0.f;
        window[(i + R) % K][j] = pixel;
        sums[TAPS] += pixel;
      }
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

KERNEL(4) depthwise_forward(const MAP *RESTRICT x, const BRANCH *RESTRICT kernel,
                         const float *RESTRICT bias, BRANCH *RESTRICT y) {
  convolve<false, false>(x, kernel, bias, (const BRANCH *)0, y);
}

KERNEL(4) depthwise_input_gradient(const BRANCH *RESTRICT g, const BRANCH *RESTRICT kernel,
                                MAP *RESTRICT dx) {
  convolve<true, false>(g, kernel, 0, (const MAP *)0, dx);
}

KERNEL(4) depthwise_input_gradient_plus(const BRANCH *RESTRICT g, const BRANCH *RESTRICT kernel,
                                     const MAP *RESTRICT addend, MAP *RESTRICT dx) {
  convolve<true, true>(g, kernel, 0, addend, dx);
}

// sums [gridDim.x, SUMS, C], to be added up along the first axis: there is no atomic, and so the
// order is always the same.
KERNEL(3) depthwise_kernel_gradient(const MAP *RESTRICT x, const BRANCH *RESTRICT g,
                                 float *RESTRICT sums) {
  constexpr int AT_ONCE = 10;  // of the SUMS, in shared memory
  SHARED union {
    GradientRings rings;
    float sums[AT_ONCE][THREADS];
  } shared;
  float own[SUMS] = {};
  for (int first = blockIdx.x * blockDim.y; first < number_of_strips();
       first += gridDim.x * blockDim.y)
    correlate(shared.rings, x, g, Strip(first + threadIdx.y), own);
#pragma unroll
  for (int first = 0; first < SUMS; first += AT_ONCE) {
    SYNCHRONIZE();
#pragma unroll
    for (int t = 0; t < AT_ONCE; t++) shared.sums[t][this_thread()] = own[first + t];
    SYNCHRONIZE();
    for (int t = threadIdx.y; t < AT_ONCE; t += blockDim.y) {
      float sum = 0.f;
      for (int s = 0; s < blockDim.y; s++) sum += shared.sums[t][s * blockDim.x + threadIdx.x];
      if (this_channel() < C())
        sums[((long long)blockIdx.x * SUMS + first + t) * C() + this_channel()] = sum;
    }
  }
}
