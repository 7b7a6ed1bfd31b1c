// Philox4x32-10, a counter-based generator: four random words for any counter and key, computed in
// any order, so a mask can be made again wherever it is needed.
//
// Reference: Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3", sec.
// 3.3. Integers only: the same words on every instruction set.
#pragma once
#include "simd/lanes.h"

namespace gradcore::GRADCORE_ISA {

// Lanes of 64 bits that each hold one 32-bit word: a product of two words needs the room. What lies
// above the word is not looked at until the end.
using Words = typename LanesOf<uint64_t, vector_bytes / 8>::type;
constexpr int word_lanes = vector_bytes / 8;

// The 64-bit products of the low halves. GCC 12 makes three multiplications of a plain a * b.
#if defined(__AVX512F__)
GC_INLINE Words multiply_words(Words a, Words b) {
  // With a mask of ones: GCC 12 warns that the plain one reads its undefined pass-through.
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

// x [4]: the counter's words in, random words out; key [2].
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
