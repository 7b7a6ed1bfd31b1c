/* Connectionist temporal classification: loss, gradient, search for labels. Part of gradcore.h. */
#pragma once
#include <gradcore/gradcore.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The loss of Graves et al. 2006: minus the log of the probability that the outputs of each
 * sequence, softmax at every step, spell its labels, over all alignments. */
typedef struct gc_ctc {
  int32_t dtype; /* gc_dtype */
  int64_t steps, batch, classes;
  int64_t blank;               /* the class that stands for no label */
  const void* outputs;         /* [T,B,C] logits, finite or -infinity where t < lengths[b] */
  const int64_t* lengths;      /* [B] 0..T, or NULL: T */
  const int64_t* labels;       /* of all sequences, one after the other; no blanks */
  const int64_t* label_counts; /* [B] */
  const double* factors;       /* [B] what a sequence's gradient is multiplied by, or NULL: 1 */
  int32_t threads;             /* at most this many, each for different sequences; 0:
                                  gc_default_threads() */
  gc_poll_fn poll;             /* called after each sequence of the calling thread */
  void* poll_context;
  double* losses;  /* [B] out; infinity: no alignment is possible, or each has probability 0 */
  void* d_outputs; /* [T,B,C] out, or NULL: not wanted; zeros where t >= lengths[b], and of
                      sequences whose loss is infinite */
} gc_ctc;

/* Bytes that gc_ctc_loss will hold; -1 with a message if the call is not valid. Reads lengths and
 * label_counts. */
GC_API int64_t gc_ctc_bytes(const gc_ctc* call);
/* Computes the losses and, if wanted, their gradient by the outputs. The results have the same bits
 * for every number of threads. GC_NONFINITE if an output that counts is NaN or +infinity. */
GC_API gc_status gc_ctc_loss(gc_ctc* call);

typedef struct gc_ctc_search {
  int32_t dtype; /* gc_dtype */
  int64_t steps, batch, classes, blank;
  const void* outputs;    /* [T,B,C] logits, as in gc_ctc */
  const int64_t* lengths; /* [B] 0..T, or NULL: T */
  int64_t beam;           /* prefixes kept at each step; 0: the most probable class of each step */
  int32_t threads;
  gc_poll_fn poll;
  void* poll_context;
  int64_t* labels;       /* [B,T] out, the first label_counts[b] of each row */
  int64_t* label_counts; /* [B] out */
  double* scores;        /* [B] out: with a beam, the log of the labels' probability over the
                            alignments that were kept; without, that of the one alignment */
} gc_ctc_search;

/* Looks for the most probable labels of each sequence: of the best alignment, or by prefix beam
 * search (Graves 2008, section 7.5.2; Hannun et al. 2014). */
GC_API gc_status gc_ctc_decode(gc_ctc_search* call);

#ifdef __cplusplus
}
#endif
