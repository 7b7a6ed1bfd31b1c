/* Largest singular values of matrices. Part of gradcore.h. */
#pragma once
#include <gradcore/gradcore.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct gc_spectral {
  int32_t dtype; /* gc_dtype */
  int64_t count, rows, columns;
  const void* matrices; /* [count, rows, columns], finite */
  double tolerance; /* stops where |A'A v - sigma^2 v| <= tolerance * sigma^2; less than 8 roundings
                       of the dtype counts as 8 */
  int64_t max_steps; /* largest number of products with A'A per matrix */
  uint64_t seed;     /* of the first vectors, which are normally distributed */
  /* First vectors of an earlier call, used instead of random ones: left [count, rows] where
   * rows < columns, else right [count, columns]. NULL: random. */
  const void *start_left, *start_right;
  int32_t threads; /* at most this many, each for different matrices; 0: gc_default_threads() */
  gc_poll_fn poll; /* called after each matrix of the calling thread */
  void* poll_context;
  /* what was found */
  double* values;     /* [count] |A v|, a lower bound of the largest singular value */
  double* residuals;  /* [count] |A'u - sigma v| / sigma */
  void* left;         /* [count, rows] u = A v / sigma */
  void* right;        /* [count, columns] v */
  int32_t* steps;     /* [count] products with A'A */
  int32_t* converged; /* [count] 0: no; 1: within the tolerance; 2: the Krylov space cannot grow, so
                         the value is accurate to rounding */
} gc_spectral;

/* The largest singular value of each matrix, by Lanczos iteration. GC_NONFINITE if an element is
 * not finite. */
GC_API gc_status gc_spectral_norms(gc_spectral* call);

#ifdef __cplusplus
}
#endif
