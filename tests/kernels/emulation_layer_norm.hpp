// What emulation.cpp runs of layer_norm.cu.
#define CASE(CHUNKS)                                                                        \
  if (name == "standardize_gradient_" #CHUNKS)                                              \
    launch([=] { standardize_gradient_##CHUNKS((MAP *)in(0), (BRANCH *)in(1), (MAP *)out); });
#define RUN CASE(1) CASE(2) CASE(3) CASE(4) CASE(6) CASE(8) CASE(12)
