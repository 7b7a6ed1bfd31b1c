// Philox4x32-10 is a counter-based generator: it gives four random words for any counter and key,
// in any order, so that a mask can be computed again wherever it is needed.
//
// Reference: Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3", sec.
// 3.3. It uses integers only and gives the same words on every instruction set.
#pragma once
#include "simd/lanes.h"

namespace gradcore::GRADCORE_ISA {

// Every 64-bit lane holds one 32-bit word, which leaves room for the product of two words. The
// upper halves may hold anything until the last line of philox() clears them.
using Words = typename LanesOf<uint64_t, vector_bytes / 8>::type;
constexpr int word_lanes = vector_bytes / 8;

// Returns the 64-bit products of the low halves. GCC 12 compiles a plain a * b to three
// multiplications, so the instruction is called directly.
#if defined(__AVX512F__)
GC_INLINE Words multiply_words(Words a, Words b) {
  // The mask is all ones because GCC 12 warns that the unmasked form reads an undefined operand.
  return bit_cast<Words>(_mm512_maskz_mul_epu32(0xff, bit_cast<__m512i>(a), bit_cast<__m512i>(b)));
}
#elif defined(__AVX2__)
GC_INLINE Words multiply_words(Words a, Words b) {
  return bit_cast<Words>(_mm256_mul_epu32(bit_cast<__m256i>(a), bit_cast<__m256i>(b)));
}
#elif defined(__SSE2__)
GC_INLINE Words multiply_words(Words a, Words b) {
  return bit_cast<Words>(_mm_mul_epu32(bit_cast<__m128i>(a), bit_cast<__m128i>(b)));
}
#else
GC_INLINE Words multiply_words(Words a, Words b) {
  return (a & 0xffffffffULL) * (b & 0xffffffffULL);
}
#endif

// x [4] holds the counter's words and is replaced by random words; key [2].
GC_INLINE void philox(Words* x, const uint32_t* key) {
  const Words m0 = Words{} + 0xD2511F53ULL, m1 = Words{} + 0xCD9E8D57ULL;
  uint32_t k0 = key[0], k1 = key[1];
  for (int round = 0; round < 10; round++) {
    const Words p0 = multiply_words(x[0], m0), p1 = multiply_words(x[2], m1);
    x[0] = (p1 >> 32) ^ x[1] ^ (Words{} + uint64_t{k0});
    x[2] = (p0 >> 32) ^ x[3] ^ (Words{} + uint64_t{k1});
    x[1] = p1;
    x[3] = p0;
    k0 += 0x9E3779B9U;
    k1 += 0xBB67AE85U;
  }
  GC_UNROLL
  for (int i = 0; i < 4; i++) x[i] = x[i] & 0xffffffffULL;
}

}  // namespace gradcore::GRADCORE_ISA
