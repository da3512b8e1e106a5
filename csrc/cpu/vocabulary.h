// The loops of `sample` that run over a row of logits.
#pragma once

#include <cstdint>

namespace glimp {

struct VocabularyKernels {};

}  // namespace glimp
