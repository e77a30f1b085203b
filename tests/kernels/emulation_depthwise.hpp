// What emulation.cpp runs of depthwise.cu.
#define RUN                                                                                     \
  if (name == "depthwise_forward")                                                              \
    launch([=] {                                                                                \
      depthwise_forward((MAP *)in(0), (BRANCH *)in(1), (float *)in(2), (BRANCH *)out);          \
    });                                                                                         \
  if (name == "depthwise_input_gradient")                                                       \
    launch([=] { depthwise_input_gradient((BRANCH *)in(0), (BRANCH *)in(1), (MAP *)out); });    \
  if (name == "depthwise_input_gradient_plus")                                                  \
    launch([=] {                                                                                \
      depthwise_input_gradient_plus((BRANCH *)in(0), (BRANCH *)in(1), (MAP *)in(2), (MAP *)out); \
    });                                                                                         \
  if (name == "depthwise_kernel_gradient")                                                      \
    launch([=] { depthwise_kernel_gradient((MAP *)in(0), (BRANCH *)in(1), (float *)out); });
