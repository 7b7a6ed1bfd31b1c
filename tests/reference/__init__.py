"""The slow float64 reference, which is written for readability and shares no code with gradcore.

rnn, lstm, gru, antisymmetricrnn: the elementwise mathematics of one step, forward, backward and
tangent. skip: skip connections through time. pipeline: whole nets. two_ways: nets with
bidirectional layers. losses: losses and their gradients. signals: the error-to-signal ratio. ctc:
connectionist temporal classification over all alignments. between: LayerNorm, dropout and dense
layers. activations: activation functions. philox: random masks. scaled: gradients too large or too
small for float64. lion, clips: the optimizer and the clips that PyTorch does not have.

Nets and layers are read through the attributes of gradcore's descriptions; parameters are a dict
from gradcore's names to arrays. All forward functions also accept complex numbers, so that
derivatives can be checked by complex steps.
"""
