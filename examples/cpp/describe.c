/* Uses gradcore from C: prints the machine's properties and the number of a net's parameters. */
#include <gradcore/gradcore.h>
#include <gradcore/version.h>
#include <stdio.h>

int main(void) {
  gc_layer layer = {0};
  gc_net net = {0};
  if (gc_abi_version() != GRADCORE_ABI_VERSION) {
    fprintf(stderr, "compiled for ABI %d, loaded %d\n", GRADCORE_ABI_VERSION, gc_abi_version());
    return 1;
  }
  layer.cell = GC_GRU;
  layer.input_size = 8;
  layer.hidden_size = 16;
  layer.bias = 1;
  net.dtype = GC_FLOAT64;
  net.n_layers = 1;
  net.layers = &layer;
  printf("gradcore %s by %s, level %d, %d threads\n", gc_version(), gc_compiler(),
         (int)gc_isa_in_use(), (int)gc_default_threads());
  printf("a GRU of 16 units has %lld parameters\n", (long long)gc_net_parameters(&net));
  layer.hidden_size = 0;
  if (gc_net_parameters(&net) != -1) return 1;
  printf("refused: %s\n", gc_last_error());
  return 0;
}
