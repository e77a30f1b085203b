// Runs a kernel of convnext/kernels/cuda on the CPU: the threads of a block in turns, each as far as
// the next barrier, and one block after another.
//
//     emulation KERNEL NAME=SIZE... - GRID_X GRID_Y BLOCK_X BLOCK_Y OPERANDS BYTES...
//         < operands > results
//
// The sizes are those that the PTX has as SIZE_NAME. BYTES are those of each operand, which follow
// one another on stdin, and of each result. What a kernel does not write is 0xff. Compiled with
// -DSOURCE='"depthwise.cu"' and the source's macros.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <string>
#include <ucontext.h>
#include <vector>

struct Index {
  int x, y;
};
struct Copy {
  void *to;
  const void *from;
  int bytes;
};
struct Thread {
  ucontext_t context;
  std::vector<char> stack;
  Index index;
  bool is_done;
  std::deque<std::vector<Copy>> groups;  // on their way
  std::vector<Copy> sent;                // of no group yet
};
static Index gridDim, blockDim, blockIdx, threadIdx;
static std::map<std::string, int> sizes;
static std::vector<Thread> threads;
static Thread *current;
static ucontext_t scheduler;
static std::function<void()> kernel_of_thread;
static float of_thread[1024];

#define FUNCTION inline
#define KERNEL(blocks) static void
#define RESTRICT __restrict__
#define SHARED static
#define SYNCHRONIZE() swapcontext(&current->context, &scheduler)
// All threads of a block come here together.
#define SYNCHRONIZE_WARP() SYNCHRONIZE()
#define SIZE(name)                             \
  FUNCTION int name() {                        \
    static const int size = sizes.at(#name);   \
    return size;                               \
  }

FUNCTION int thread_number() { return threadIdx.y * blockDim.x + threadIdx.x; }
FUNCTION float SHUFFLE_XOR(float value, int mask) {
  of_thread[thread_number()] = value;
  SYNCHRONIZE();
  const float other = of_thread[thread_number() ^ mask];
  SYNCHRONIZE();
  return other;
}

// Copies may arrive as soon as they are sent, or as late as they are waited for: those of every other
// thread do the one, the rest the other.
FUNCTION void arrive(const Copy &copy) {
  memset(copy.to, 0, 16);
  if (copy.bytes) memcpy(copy.to, copy.from, copy.bytes);
}
typedef char *SharedAddress;
FUNCTION SharedAddress shared_address(const void *shared) { return (char *)shared; }
FUNCTION void send_16(SharedAddress to, const void *from, int bytes) {
  if ((uintptr_t)to % 16 || bytes && (uintptr_t)from % 16) abort();
  const Copy copy = {to, from, bytes};
  if (thread_number() % 2)
    arrive(copy);
  else
    current->sent.push_back(copy);
}
FUNCTION void end_of_group() {
  current->groups.push_back(current->sent);
  current->sent.clear();
}
template <int N> FUNCTION void wait_for_groups() {
  for (; current->groups.size() > N; current->groups.pop_front())
    for (const Copy &copy : current->groups.front()) arrive(copy);
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

static void run_thread() {
  kernel_of_thread();
  current->is_done = true;
}

static void launch(std::function<void()> kernel) {
  kernel_of_thread = kernel;
  threads.resize(blockDim.x * blockDim.y);
  for (int block = 0; block < gridDim.x * gridDim.y; block++) {
    blockIdx = {block % gridDim.x, block / gridDim.x};
    for (int i = 0; i < threads.size(); i++) {
      Thread &thread = threads[i];
      thread.stack.resize(1 << 18);
      thread.index = {i % blockDim.x, i / blockDim.x};
      thread.is_done = false;
      thread.groups.clear();
      getcontext(&thread.context);
      thread.context.uc_stack = {thread.stack.data(), 0, thread.stack.size()};
      thread.context.uc_link = &scheduler;
      makecontext(&thread.context, run_thread, 0);
    }
    while (!threads[0].is_done)
      for (Thread &thread : threads) {
        if (thread.is_done) abort();  // it has met fewer barriers than the first one
        current = &thread;
        threadIdx = thread.index;
        swapcontext(&scheduler, &thread.context);
        if (thread.is_done != threads[0].is_done) abort();
      }
  }
}

int main(int, char **arguments) {
  const std::string name = *++arguments;
  while (**++arguments != '-') {
    const std::string size = *arguments;
    sizes[size.substr(0, size.find('='))] = atoi(size.c_str() + size.find('=') + 1);
  }
  int operands;
  for (int *to : {&gridDim.x, &gridDim.y, &blockDim.x, &blockDim.y, &operands})
    *to = atoi(*++arguments);
  // Each in memory of its own, of exactly its size, so that a sanitizer sees what is beyond.
  std::vector<std::vector<unsigned char>> arrays;
  while (*++arguments) arrays.emplace_back(atoi(*arguments), 0xff);
  for (int i = 0; i < operands; i++)
    if (fread(arrays[i].data(), 1, arrays[i].size(), stdin) != arrays[i].size()) return 2;
  const auto at = [&](int i) { return (void *)arrays.at(i).data(); };
  RUN
  for (int i = operands; i < arrays.size(); i++)
    fwrite(arrays[i].data(), 1, arrays[i].size(), stdout);
}
