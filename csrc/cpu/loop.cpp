// The decoding loop on the CPU: glimp_decode of glimp.h.

#include <limits>

#include "../glimp.h"

namespace {

constexpr int64_t kMostTicks = 1 << 20;

bool is_good(const glimp_loop_state &s) {
    const void *pointers[] = {s.token_ids,   s.positions,      s.slots,       s.sample_positions, s.kv_len,
                              s.page_table,  s.token,          s.entropy,     s.logprob,          s.token_class,
                              s.next_state,  s.completes,      s.state,       s.awaits_glimpse,   s.small_below,
                              s.ends_at_step, s.min_logprob,   s.control,     s.samples,          s.num_done,
                              s.is_over,     s.stop};
    for (const void *pointer : pointers)
        if (!pointer) return false;
    return true;
}

void forbid(float *logits, int64_t num_rows, int64_t num_logits, const int64_t *ids, int64_t num_ids) {
    for (int64_t r = 0; r < num_rows; ++r)
        for (int64_t i = 0; i < num_ids; ++i)
            if (ids[i] >= 0 && ids[i] < num_logits) logits[r * num_logits + ids[i]] = -std::numeric_limits<float>::infinity();
}

}  // namespace

extern "C" int32_t glimp_decode(glimp_cpu *cpu, const glimp_decoder *decoder, const glimp_attention *batch,
                                const int64_t *logit_rows, int64_t num_logits, const glimp_kv *kv, float *logits,
                                const int64_t *forbidden_ids, int64_t num_forbidden, const glimp_sampling *params,
                                const uint8_t *token_class, const glimp_loop_state *loop) {
    if (!decoder || !batch || !kv || !params || !loop || !is_good(*loop)) return GLIMP_NULL_POINTER;
    if (num_forbidden > 0 && !forbidden_ids) return GLIMP_NULL_POINTER;
    if (num_forbidden < 0 || num_forbidden > decoder->vocab_size) return GLIMP_BAD_SIZE;
    const int64_t num_rows = batch->num_sequences;
    if (num_rows < 1 || num_rows != batch->num_tokens || num_rows != loop->control[GLIMP_NUM_ROWS]) return GLIMP_BAD_SIZE;
    const int32_t max_ticks = loop->control[GLIMP_MAX_TICKS];
    if (max_ticks < 1 || max_ticks > loop->most_ticks || loop->most_ticks > kMostTicks) return GLIMP_BAD_SIZE;
    if (loop->max_pages != batch->max_pages || loop->page_size < 1 || loop->page_size != kv->page_size)
        return GLIMP_BAD_SIZE;
    if (loop->num_states < 1 || loop->num_states > 256 || loop->num_classes < 1 || loop->num_classes > 256)
        return GLIMP_BAD_SIZE;
    for (int32_t tick = 0; !*loop->is_over; ++tick) {
        int32_t error = glimp_forward(cpu, decoder, loop->token_ids, batch, logit_rows, num_rows, num_logits, kv, logits);
        if (error) return error;
        forbid(logits, num_rows, num_logits, forbidden_ids, num_forbidden);
        error = glimp_sample(cpu, logits, num_rows, num_logits, num_logits, params, token_class, loop->token,
                             loop->entropy, loop->logprob, loop->token_class);
        if (error) return error;
        bool must_stop = false;
        const int capacity = static_cast<int>(num_rows);
        for (int row = 0; row < capacity; ++row) {
            if (loop->state[row] < 0 || loop->state[row] >= loop->num_states) return GLIMP_OUT_OF_RANGE;
            if (loop->token_class[row] >= loop->num_classes) return GLIMP_OUT_OF_RANGE;
            must_stop |= glimp_advance_row(loop, row, capacity, tick) != 0;
        }
        loop->control[GLIMP_NUM_TICKS] = tick + 1;
        *loop->is_over = must_stop || tick + 1 >= max_ticks || *loop->stop;
        *loop->num_done = tick + 1;
    }
    return GLIMP_OK;
}
