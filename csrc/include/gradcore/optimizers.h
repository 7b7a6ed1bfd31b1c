/* Optimizer steps over flat buffers. Part of gradcore.h. */
#pragma once
#include <gradcore/gradcore.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum gc_optimizer {
  GC_SGD = 0,
  GC_ADAM = 1,
  GC_ADAMW = 2,
  GC_RMSPROP = 3,
  GC_ADAGRAD = 4,
  GC_LION = 5
} gc_optimizer;

/* Clips act on the true gradient, grads * 2^grads_exponent; `limit` below is
 * clip_limit * 2^clip_limit_exponent. */
typedef enum gc_clip {
  GC_CLIP_NONE = 0,
  GC_CLIP_GLOBAL = 1,  /* scales the gradient of all segments to norm `limit` if it is larger */
  GC_CLIP_SEGMENT = 2, /* scales each segment to norm `limit` if it is larger */
  GC_CLIP_VALUE = 3,   /* limits every element to [-limit, limit] */
  GC_CLIP_ADAPTIVE = 4 /* scales each unit of a segment to norm limit * max(its weights' norm,
                          clip_eps) if it is larger */
} gc_clip;

/* A range of the flat buffers with the same options, such as one parameter array. Elements in no
 * segment are frozen: they are neither read nor written, and are not part of any norm. */
typedef struct gc_segment {
  int64_t offset, length; /* segments ascend and do not overlap; length is 1 or more */
  int32_t group;          /* 0..n_groups-1: the group in whose report its norms are */
  double lr_scale;        /* multiplies lr */
  double weight_decay;
  int64_t unit; /* GC_CLIP_ADAPTIVE: elements of a unit (a row of a matrix); divides length */
  int64_t
      clipped; /* out: 0 if nothing was clipped; units for ADAPTIVE, elements for VALUE, else 1 */
} gc_segment;

/* The effect of a step on the segments of one group; norms are of the true gradient, and the log10
 * of 0 is -infinity. */
typedef struct gc_group_report {
  double norm_log10;         /* before clipping */
  double clipped_norm_log10; /* after */
  double update_norm;
  double param_norm; /* before the update */
  int64_t clipped;   /* sum of the segments' */
} gc_group_report;

typedef struct gc_update {
  int32_t kind; /* gc_optimizer */
  int32_t dtype;
  int64_t n;
  void* params;      /* [n] in/out */
  const void* grads; /* [n] */
  int64_t grads_exponent;
  /* [n] in/out, zero before the first step (Adagrad's second moment: its initial value); null where
   * the optimizer keeps none. None of the arrays may overlap. */
  void* first_moment;  /* mean of gradients: Adam, AdamW, Lion, RMSprop if centered */
  void* second_moment; /* mean of squares: Adam, AdamW, RMSprop; their sum: Adagrad */
  void* velocity;      /* momentum buffer: SGD and RMSprop with momentum > 0 */
  double lr;
  double momentum, dampening; /* SGD; momentum also RMSprop */
  double alpha;               /* RMSprop */
  double beta1, beta2;        /* Adam, AdamW, Lion */
  double eps;                 /* all but SGD and Lion */
  double lr_decay;            /* Adagrad */
  int32_t nesterov;           /* SGD */
  int32_t centered;           /* RMSprop */
  int64_t step;               /* 1 for the first update */
  gc_segment* segments;       /* [n_segments] in/out; null: one over all, lr_scale 1, no decay */
  int64_t n_segments;
  int32_t clip;      /* gc_clip */
  double clip_limit; /* above 0; infinity is allowed for GLOBAL and SEGMENT */
  int64_t clip_limit_exponent;
  double clip_eps;         /* ADAPTIVE: above 0 */
  int32_t threads;         /* 0: gc_default_threads() */
  gc_group_report* groups; /* [n_groups] out; null if n_groups is 0: no reports, groups ignored */
  int64_t n_groups;
  /* what happened */
  gc_group_report total; /* over all segments */
  double clip_scale;     /* norm after clipping / norm before; 1 if nothing was clipped */
  int64_t where;         /* GC_NONFINITE: index of the first non-finite gradient in a segment */
} gc_update;

/* One optimizer step over flat buffers: norms, clip and update. The equations are those of
 * torch.optim, and for Lion algorithm 2 of Chen et al. 2023. On any failure parameters and moments
 * are unchanged: GC_NONFINITE if a gradient is not finite; GC_INVALID if grads_exponent is not 0
 * and there is no clip, or if the clipped gradient is still beyond the range of its dtype. */
GC_API gc_status gc_optimizer_step(gc_update* update);

#ifdef __cplusplus
}
#endif
