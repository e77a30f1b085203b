// The types of the numbers in memory. What is computed is float32.
struct Bfloat16 {
  unsigned short bits;
};
typedef float Float32;

FUNCTION float widen(Float32 value) { return value; }
FUNCTION float widen(Bfloat16 value) { return as_float((unsigned)value.bits << 16); }
FUNCTION void narrow(float value, Float32 *to) { *to = value; }
FUNCTION void narrow(float value, Bfloat16 *to) { to->bits = bfloat16_bits(value); }
