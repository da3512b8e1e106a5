// Attention over paged keys and values.
#pragma once

#include <cstdint>

#include "../glimp.h"

namespace glimp {

struct AttentionKernels {};

}  // namespace glimp
