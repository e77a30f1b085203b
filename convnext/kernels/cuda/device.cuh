// The words in which kernels are written here, for nvcc. tests/kernels/emulation.cpp has the same
// for a CPU.
#define FUNCTION static __device__ __forceinline__
#define KERNEL extern "C" __global__ void __launch_bounds__(THREADS, 3)
#define RESTRICT __restrict__
#define SHARED __shared__
#define SYNCHRONIZE() __syncthreads()
// What the thread has whose number differs from this one's by the bits of `mask`.
#define SHUFFLE_XOR(value, mask) __shfl_xor_sync(0xffffffff, value, mask)

// A name in the PTX, which ptx.py replaces by a number.
#define SIZE(name)                                       \
  FUNCTION int name() {                                  \
    int value;                                           \
    asm("mov.u32 %0, SIZE_" #name ";" : "=r"(value)); \
    return value;                                        \
  }

FUNCTION float as_float(unsigned bits) { return __uint_as_float(bits); }
FUNCTION unsigned short bfloat16_bits(float value) {  // rounded to nearest, ties to even
  unsigned short bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
}
