/* What the machine can do at most. Part of gradcore.h. */
#pragma once
#include <gradcore/gradcore.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct gc_measurement {
  int32_t dtype; /* gc_measure_flops: gc_dtype */
  int64_t
      bytes; /* gc_measure_reads: size of each thread's buffer, a multiple of 512, at most 2^30 */
  int32_t threads; /* 0: gc_default_threads(), which is then written here; at most 64 */
  int32_t repeats; /* 1 to 1000 */
  double seconds;  /* length of a repetition, above 0 and at most 1 */
  /* what was found: the best repetition, as the sum over the threads that ran at the same time */
  double per_second;
  int32_t threads_used;
} gc_measurement;

/* Floating-point operations per second of multiply-adds between registers, which count as two, at
 * the level in use (on v2 and the baseline a multiplication and an addition). Takes
 * repeats * seconds. */
GC_API gc_status gc_measure_flops(gc_measurement* measurement);
/* Bytes per second of reads in ascending order. Each thread reads a buffer of its own that it has
 * read before, so the result is the speed of the smallest cache that holds the buffer, or of
 * memory. A repetition reads the whole buffer at least once, however long that takes. */
GC_API gc_status gc_measure_reads(gc_measurement* measurement);

#ifdef __cplusplus
}
#endif
