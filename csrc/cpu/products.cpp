// Linear layers and the embedding, spread over the threads.

#include <algorithm>

#include "ops.h"
#include "packed.h"

namespace glimp {

namespace {

constexpr int64_t kTasksPerThread = 16;  // so that a thread that is held up holds up little

bool is_quantized(const glimp_weight &weight) { return packed_layout(weight.type).bits > 0; }

// x as int8, in memory of its own.
QuantizedRows quantize_rows(glimp_cpu &cpu, const float *x, int64_t num_tokens, int64_t k) {
    const int64_t values = num_tokens * k, blocks = values / kBlock;
    auto *memory = static_cast<uint8_t *>(cpu.quantized.reserve(values + 20 * blocks));
    auto *scale = reinterpret_cast<float *>(memory + values);
    const QuantizedRows rows = {reinterpret_cast<int8_t *>(memory), scale, scale + blocks,
                                reinterpret_cast<int32_t *>(scale + 2 * blocks), num_tokens, k};
    cpu.threads.run(num_tokens, [&](int64_t t, int) { cpu.kernels.linear.quantize(x + t * k, rows, t); });
    return rows;
}

// x as bfloat16, in memory of its own.
const uint16_t *round_rows(glimp_cpu &cpu, const float *x, int64_t num_tokens, int64_t k) {
    auto *rows = static_cast<uint16_t *>(cpu.rounded.reserve(num_tokens * k * 2));
    cpu.threads.run(num_tokens, [&](int64_t t, int) { cpu.kernels.float_linear.round(x + t * k, k, rows + t * k); });
    return rows;
}

}  // namespace

void linear(glimp_cpu &cpu, const float *x, int64_t num_tokens, const Product *products, int num_products) {
    if (num_tokens == 0) return;
    const int64_t k = products[0].weight->k;
    int64_t total = 0;
    bool any_quantized = false, any_rounded = false;
    const FloatLinearKernels &floats = cpu.kernels.float_linear;
    const auto is_rounded = [&](const glimp_weight &weight) { return weight.type == GLIMP_BF16 && floats.round; };
    for (int i = 0; i < num_products; ++i) {
        total += num_tiles(products[i].weight->n);
        any_quantized |= is_quantized(*products[i].weight);
        any_rounded |= is_rounded(*products[i].weight);
    }
    QuantizedRows rows = {};
    if (any_quantized) rows = quantize_rows(cpu, x, num_tokens, k);
    const uint16_t *rounded = any_rounded ? round_rows(cpu, x, num_tokens, k) : nullptr;
    const int64_t num_tasks = std::min(total, kTasksPerThread * cpu.threads.num_threads());
    cpu.threads.run(num_tasks, [&](int64_t task, int) {
        const int64_t first = total * task / num_tasks, last = total * (task + 1) / num_tasks;
        int64_t before = 0;
        for (int i = 0; i < num_products; ++i) {
            const glimp_weight &weight = *products[i].weight;
            const int64_t tiles = num_tiles(weight.n);
            const int64_t begin = std::max<int64_t>(first - before, 0), end = std::min(last - before, tiles);
            before += tiles;
            if (begin >= end) continue;
            if (is_quantized(weight))
                cpu.kernels.linear.quantized(weight, rows, begin, end, products[i].out);
            else if (is_rounded(weight))
                floats.multiply_rounded(weight, rounded, num_tokens, begin, end, products[i].out);
            else
                floats.multiply(weight, x, num_tokens, begin, end, products[i].out);
        }
    });
}

void embed(glimp_cpu &cpu, const int64_t *token_ids, int64_t num_tokens, const glimp_weight &weight, float *out) {
    const auto row = is_quantized(weight) ? cpu.kernels.linear.dequantize : cpu.kernels.float_linear.row;
    cpu.threads.run(num_tokens, [&](int64_t t, int) { row(weight, token_ids[t], out + t * weight.k); });
}

int32_t check_weight(const glimp_weight &weight) {
    if (!weight.data) return GLIMP_NULL_POINTER;
    if (const int32_t error = check_sizes({weight.n, weight.k, 4}, 1)) return error;
    if (weight.type == GLIMP_F32 || weight.type == GLIMP_F16 || weight.type == GLIMP_BF16) return GLIMP_OK;
    if (glimp::packed_layout(weight.type).bits == 0) return GLIMP_BAD_TYPE;
    return glimp_packed_bytes(weight.type, weight.n, weight.k) < 0 ? GLIMP_BAD_SIZE : GLIMP_OK;
}

}  // namespace glimp

extern "C" {

int32_t glimp_linear(glimp_cpu *cpu, const float *x, int64_t num_tokens, const glimp_weight *weight, float *out,
                     int64_t out_stride, int32_t accumulate) {
    if (!cpu || !weight) return GLIMP_NULL_POINTER;
    if (const int32_t error = glimp::check_weight(*weight)) return error;
    if (out_stride < weight->n) return GLIMP_BAD_SIZE;
    if (const int32_t error = glimp::check_sizes({num_tokens, std::max(out_stride, weight->k)}, 0)) return error;
    if (num_tokens == 0) return GLIMP_OK;
    if (!x || !out) return GLIMP_NULL_POINTER;
    return glimp::run_alone(*cpu, [&] {
        const glimp::Product product = {weight, {out, out_stride, accumulate != 0}};
        glimp::linear(*cpu, x, num_tokens, &product, 1);
        return GLIMP_OK;
    });
}

int32_t glimp_embed(glimp_cpu *cpu, const int64_t *token_ids, int64_t num_tokens, const glimp_weight *weight,
                    float *out) {
    if (!cpu || !weight) return GLIMP_NULL_POINTER;
    if (const int32_t error = glimp::check_weight(*weight)) return error;
    if (const int32_t error = glimp::check_sizes({num_tokens, weight->k}, 0)) return error;
    if (num_tokens == 0) return GLIMP_OK;
    if (!token_ids || !out) return GLIMP_NULL_POINTER;
    for (int64_t t = 0; t < num_tokens; ++t)
        if (token_ids[t] < 0 || token_ids[t] >= weight->n) return GLIMP_OUT_OF_RANGE;
    return glimp::run_alone(*cpu, [&] {
        glimp::embed(*cpu, token_ids, num_tokens, *weight, out);
        return GLIMP_OK;
    });
}
}
