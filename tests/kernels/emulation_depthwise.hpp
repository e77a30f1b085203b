// What emulation.cpp runs of depthwise.cu.
#define RUN                                                                                  \
  if (name == "depthwise_forward")                                                           \
    launch([=] {                                                                             \
      depthwise_forward((MAP *)at(0), (BRANCH *)at(1), (float *)at(2), (BRANCH *)at(3));     \
    });                                                                                      \
  if (name == "depthwise_input_gradient")                                                    \
    launch([=] {                                                                             \
      depthwise_input_gradient((BRANCH *)at(0), (BRANCH *)at(1), (MAP *)at(2));              \
    });                                                                                      \
  if (name == "depthwise_input_gradient_plus")                                               \
    launch([=] {                                                                             \
      depthwise_input_gradient_plus((BRANCH *)at(0), (BRANCH *)at(1), (MAP *)at(2),          \
                                    (MAP *)at(3));                                           \
    });                                                                                      \
  if (name == "depthwise_kernel_gradient")                                                   \
    launch([=] { depthwise_kernel_gradient((MAP *)at(0), (BRANCH *)at(1), (float *)at(2)); });
