// Runs a kernel of convnext/kernels/cuda on the CPU, a thread for each thread of a block, one block
// after another.
//
//     emulation KERNEL N H W C GRID_X GRID_Y BLOCK_X BLOCK_Y BYTES... < operands > result
//
// BYTES are those of each operand, which follow one another on stdin, and of the result. What a
// kernel does not write is 0xff. Compiled with -DSOURCE='"depthwise.cu"' and the source's macros.
#include <barrier>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

struct Index {
  int x, y;
};
static Index gridDim, blockDim;
static thread_local Index blockIdx, threadIdx;
static std::barrier<> *all_threads;
static int sizes[4];

#define FUNCTION static inline
#define KERNEL static void
#define RESTRICT __restrict__
#define SHARED static
#define SYNCHRONIZE() all_threads->arrive_and_wait()
enum { index_of_N, index_of_H, index_of_W, index_of_C };
#define SIZE(name) \
  FUNCTION int name() { return sizes[index_of_##name]; }

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
  for (int &size : sizes) size = atoi(*++arguments);
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
