/* A decoding loop that the host follows: what its ticks read and write, and the one rule of what comes after a tick.
 *
 * A loop's body is a decoding tick of B rows, one token each. After it each row's sample goes to the host, its inputs
 * become the next token's, and the loop ends where the host has to decide something. On a CPU it is glimp_decode of
 * glimp.h, on a GPU glimp_cuda.h.
 */
#ifndef GLIMP_LOOP_H
#define GLIMP_LOOP_H

#include <stdint.h>

#ifdef __CUDACC__
#define GLIMP_ON_DEVICE __host__ __device__
#else
#define GLIMP_ON_DEVICE
#endif

/* What a tick has sampled for one row. */
typedef struct {
    int64_t token;
    float entropy; /* nats */
    float logprob; /* nats */
    int32_t token_class;
    int32_t unused;
} glimp_row_sample;

/* What a token completes; the numbers are Boundary's. */
enum glimp_boundary { GLIMP_NO_BOUNDARY = 0, GLIMP_BLANK_LINE = 1, GLIMP_END_OF_THINKING = 2, GLIMP_END = 3 };

/* Of `control`: rows in use, the most ticks of a launch, ticks done. */
enum glimp_control { GLIMP_NUM_ROWS = 0, GLIMP_MAX_TICKS = 1, GLIMP_NUM_TICKS = 2 };

/* Addresses where the loop runs, but for the host's. */
typedef struct {
    /* inputs of a tick, [B]; they become the next token's */
    int64_t *token_ids, *positions, *slots, *sample_positions;
    int32_t *kv_len;
    /* the pages of each row, [B][max_pages] */
    const int32_t *page_table;
    int64_t max_pages, page_size;
    /* what the tick has sampled, [B] */
    int64_t *token;
    float *entropy, *logprob;
    uint8_t *token_class;
    /* the automaton of step boundaries, [num_states][num_classes] */
    const uint8_t *next_state, *completes;
    int64_t num_states, num_classes;
    /* of each row, [B] */
    int32_t *state;              /* the automaton's */
    int32_t *awaits_glimpse;     /* whether this tick's entropy decides who writes on */
    const float *small_below;    /* ... the small model, if it's below this many nats */
    const int32_t *ends_at_step; /* the end of a step ends the loop: more is asked then than the loop can say */
    const float *min_logprob;    /* so does a token that is less likely: nothing is proposed behind it */
    int32_t *control;            /* [3] */
    /* the host's memory, pinned if the loop runs elsewhere */
    glimp_row_sample *samples; /* [most_ticks][B] */
    int32_t *num_done;         /* ticks whose samples can be read; written last */
    int32_t *is_over;          /* whether the loop has decided to end */
    const int32_t *stop;       /* the host asks for the end */
    int64_t most_ticks;        /* that samples has room for */
} glimp_loop_state;

/* Take a row to its next token; whether the host must decide what follows. num_capacity is B. */
GLIMP_ON_DEVICE static inline int glimp_advance_row(const glimp_loop_state *s, int row, int num_capacity, int tick) {
    const int64_t token = s->token[row];
    const float entropy = s->entropy[row];
    const int token_class = s->token_class[row];
    const glimp_row_sample sample = {token, entropy, s->logprob[row], token_class, 0};
    s->samples[(int64_t)tick * num_capacity + row] = sample;
    s->token_ids[row] = token;
    s->sample_positions[row] += 1;
    s->kv_len[row] += 1;
    const int64_t position = s->positions[row] += 1, page = position / s->page_size;
    if (page < s->max_pages)
        s->slots[row] = s->page_table[row * s->max_pages + page] * s->page_size + position % s->page_size;
    const int is_unsure = s->awaits_glimpse[row] && !(entropy < s->small_below[row]);
    const int64_t at = s->state[row] * s->num_classes + token_class;
    const int completes = s->completes[at];
    s->state[row] = s->next_state[at];
    s->awaits_glimpse[row] = completes == GLIMP_BLANK_LINE;
    const int is_step_end = completes == GLIMP_BLANK_LINE && s->ends_at_step[row];
    const int is_unlikely = s->logprob[row] < s->min_logprob[row];
    return is_unsure || is_step_end || is_unlikely || completes > GLIMP_BLANK_LINE || entropy != entropy;
}

#endif
