// The words in which kernels are written here, for nvcc. tests/kernels/emulation.cpp has the same
// for a CPU.
#define FUNCTION __device__ __forceinline__
// An entry of the PTX, with so few registers that a multiprocessor holds this many blocks.
#define KERNEL(blocks) extern "C" __global__ void __launch_bounds__(THREADS, blocks)
#define RESTRICT __restrict__
#define SHARED __shared__
#define SYNCHRONIZE() __syncthreads()
#define SYNCHRONIZE_WARP() __syncwarp()
// What the thread has whose number differs from this one's by the bits of `mask`.
#define SHUFFLE_XOR(value, mask) __shfl_xor_sync(0xffffffff, value, mask)

// A name in the PTX, which ptx.py replaces by a number.
#define SIZE(name)                                       \
  FUNCTION int name() {                                  \
    int value;                                           \
    asm("mov.u32 %0, SIZE_" #name ";" : "=r"(value)); \
    return value;                                        \
  }

// Sends 16 bytes on their way to shared memory: those at `from`, or zeros. What was sent since the
// last end_of_group() is a group, and wait_for_groups<n> returns when no more than n are on their way.
typedef unsigned SharedAddress;
FUNCTION SharedAddress shared_address(const void *shared) { return __cvta_generic_to_shared(shared); }
FUNCTION void send_16(SharedAddress to, const void *from, int bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
               "r"(bytes) : "memory");
}
FUNCTION void end_of_group() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N> FUNCTION void wait_for_groups() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

FUNCTION float as_float(unsigned bits) { return __uint_as_float(bits); }
FUNCTION unsigned short bfloat16_bits(float value) {  // rounded to nearest, ties to even
  unsigned short bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
}
