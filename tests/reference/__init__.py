"""The slow float64 reference: written to be read, and sharing no code with gradcore.

rnn, lstm, gru, antisymmetricrnn: the elementwise mathematics of one step, forward, backward and
tangent. skip: skip connections through time. pipeline: whole nets. two_ways: nets with
bidirectional layers. losses: losses and their slopes. between: LayerNorm and dropout. philox:
random masks. scaled:
gradients too large or too small for a double. lion, clips: the optimizer and the clips that PyTorch
has not.

Nets and layers are read through the attributes of gradcore's descriptions, parameters are a
dict from gradcore's names to arrays. Everything forward also runs on complex numbers, so that
derivatives can be checked by complex steps.
"""
