// What emulation.cpp runs of layer_norm.cu.
#define STANDARDIZE(CHUNKS)                                                                   \
  if (name == "standardize_gradient_" #CHUNKS)                                                \
    launch([=] { standardize_gradient_##CHUNKS((MAP *)at(0), (BRANCH *)at(1), (MAP *)at(2)); });
#define LAYER_NORM(CHUNKS)                                                                    \
  if (name == "layer_norm_gradients_" #CHUNKS)                                                \
    launch([=] {                                                                              \
      layer_norm_gradients_##CHUNKS((MAP *)at(0), (BRANCH *)at(1), (float *)at(2),            \
                                    (MAP *)at(3), (float *)at(4));                            \
    });
#define RUN                                                                                   \
  STANDARDIZE(1) STANDARDIZE(2) STANDARDIZE(3) STANDARDIZE(4) STANDARDIZE(6) STANDARDIZE(8)   \
  STANDARDIZE(12) LAYER_NORM(1) LAYER_NORM(2) LAYER_NORM(3)
