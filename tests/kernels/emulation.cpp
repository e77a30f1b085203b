// Runs a kernel of convnext/kernels/cuda on the CPU, a thread for each thread of a block, one block
// after another.
//
//     emulation KERNEL NAME=SIZE... - GRID_X GRID_Y BLOCK_X BLOCK_Y BYTES... < operands > result
//
// The sizes are those that the PTX has as SIZE_NAME. BYTES are those of each operand, which follow one another on stdin, and of the result. What a
// kernel does not write is 0xff. Compiled with -DSOURCE='"depthwise.cu"' and the source's macros.
#include <barrier>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <thread>
#include <vector>

struct Index {
  int x, y;
};
static Index gridDim, blockDim;
static thread_local Index blockIdx, threadIdx;
static std::barrier<> *all_threads;
static std::map<std::string, int> sizes;
static float of_thread[1024];

#define FUNCTION static inline
#define KERNEL static void
#define RESTRICT __restrict__
#define SHARED static
#define SYNCHRONIZE() all_threads->arrive_and_wait()
#define SIZE(name)                             \
  FUNCTION int name() {                        \
    static const int size = sizes.at(#name);   \
    return size;                               \
  }

// All threads of a block come here together.
FUNCTION float SHUFFLE_XOR(float value, int mask) {
  const int thread = threadIdx.y * blockDim.x + threadIdx.x;
  of_thread[thread] = value;
  SYNCHRONIZE();
  const float other = of_thread[thread ^ mask];
  SYNCHRONIZE();
  return other;
}

FUNCTION float as_float(unsigned bits) {
  float value;
  memcpy(&value, &bits, 4);
  return value;
}
FUNCTION unsigned short bfloat16_bits(float value) {
  unsigned bits;
  memcpy(&bits, &value, 4);
  return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

#include SOURCE

template <class Kernel> static void launch(Kernel kernel) {
  const int count = blockDim.x * blockDim.y;
  std::barrier<> barrier(count);
  all_threads = &barrier;
  std::vector<std::thread> threads;
  for (int thread = 0; thread < count; thread++)
    threads.emplace_back([=, &barrier] {
      threadIdx = {thread % blockDim.x, thread / blockDim.x};
      for (int block = 0; block < gridDim.x * gridDim.y; block++) {
        blockIdx = {block % gridDim.x, block / gridDim.x};
        kernel();
        barrier.arrive_and_wait();
      }
    });
  for (auto &thread : threads) thread.join();
}

int main(int, char **arguments) {
  const std::string name = *++arguments;
  while (**++arguments != '-') {
    const std::string size = *arguments;
    sizes[size.substr(0, size.find('='))] = atoi(size.c_str() + size.find('=') + 1);
  }
  for (int *to : {&gridDim.x, &gridDim.y, &blockDim.x, &blockDim.y}) *to = atoi(*++arguments);
  // Each in memory of its own, of exactly its size, so that a sanitizer sees what is beyond.
  std::vector<std::vector<unsigned char>> operands;
  while (*++arguments) operands.emplace_back(atoi(*arguments), 0xff);
  std::vector<unsigned char> result = operands.back();
  operands.pop_back();
  for (auto &operand : operands)
    if (fread(operand.data(), 1, operand.size(), stdin) != operand.size()) return 2;
  const auto in = [&](int i) { return (void *)operands.at(i).data(); };
  void *out = result.data();
  RUN
  fwrite(result.data(), 1, result.size(), stdout);
}
