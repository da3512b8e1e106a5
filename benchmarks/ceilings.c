/* How fast this machine reads memory and multiplies. Compiled with -march=native on the machine it measures. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define HUGE_PAGE ((size_t)2 << 20)
#define MAX_THREADS 256

/* Twelve independent accumulators, enough to hide the latency of two units of 4 to 6 cycles; registers 14 and 15 are
 * the factors. All are zero, so no operand is slow. */
#define TWELVE(op, r)                                                                                                 \
    op r "14," r "15," r "0\n" op r "14," r "15," r "1\n" op r "14," r "15," r "2\n" op r "14," r "15," r "3\n"        \
    op r "14," r "15," r "4\n" op r "14," r "15," r "5\n" op r "14," r "15," r "6\n" op r "14," r "15," r "7\n"        \
    op r "14," r "15," r "8\n" op r "14," r "15," r "9\n" op r "14," r "15," r "10\n" op r "14," r "15," r "11\n"
#define REPEAT(op, r)                                                                                                 \
    __asm__ volatile("vzeroall" ::: "memory");                                                                        \
    for (int64_t i = 0; i < n; ++i)                                                                                   \
    __asm__ volatile(TWELVE(op, r)::                                                                                  \
                         : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",   \
                           "xmm11", "memory")

enum kind { READ, INT8, BF16, FP32 };

/* Operations of one pass of twelve instructions, a multiplication and an addition counting as two; 0: there are none. */
int64_t ops_of_pass(int kind) {
    switch (kind) {
#if defined(__AVX512VNNI__)
    case INT8: return 12 * 2 * 64;
#elif defined(__AVXVNNI__)
    case INT8: return 12 * 2 * 32;
#endif
#if defined(__AVX512BF16__)
    case BF16: return 12 * 2 * 32;
#endif
#if defined(__AVX512F__)
    case FP32: return 12 * 2 * 16;
#elif defined(__FMA__)
    case FP32: return 12 * 2 * 8;
#endif
    }
    return 0;
}

static void multiply(int kind, int64_t n) {
    switch (kind) {
#if defined(__AVX512VNNI__)
    case INT8: REPEAT("vpdpbusd ", "%%zmm"); break;
#elif defined(__AVXVNNI__)
    case INT8: REPEAT("{vex} vpdpbusd ", "%%ymm"); break;
#endif
#if defined(__AVX512BF16__)
    case BF16: REPEAT("vdpbf16ps ", "%%zmm"); break;
#endif
#if defined(__AVX512F__)
    case FP32: REPEAT("vfmadd231ps ", "%%zmm"); break;
#elif defined(__FMA__)
    case FP32: REPEAT("vfmadd231ps ", "%%ymm"); break;
#endif
    }
    (void)n;
}

typedef int64_t vector __attribute__((vector_size(64)));

/* Sum of all bytes' words, over four streams side by side, so that the prefetchers have more than one page to follow. */
static int64_t read_all(const char *data, size_t num_bytes, int64_t num_passes) {
    vector sums[4] = {{0}};
    const size_t part = num_bytes / 4;
    for (int64_t pass = 0; pass < num_passes; ++pass)
        for (size_t offset = 0; offset + 256 <= part; offset += 256)
            for (int stream = 0; stream < 4; ++stream)
                for (int i = 0; i < 4; ++i) sums[i] += *(const vector *)(data + stream * part + offset + 64 * i);
    vector sum = sums[0] + sums[1] + sums[2] + sums[3];
    int64_t total = 0;
    for (int i = 0; i < 8; ++i) total += sum[i];
    return total;
}

typedef struct {
    pthread_barrier_t *start;
    int index;
    int kind;
    const char *data;
    size_t num_bytes;
    int64_t num_passes;
    volatile int64_t result;
    double began, ended;
} job;

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

/* Stay on a processor of its own: threads that are this short-lived often start on the same one. */
static void stay_on_processor(int index) {
#ifdef __linux__
    cpu_set_t allowed, one;
    CPU_ZERO(&one);
    if (sched_getaffinity(0, sizeof allowed, &allowed)) return;
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu)
        if (CPU_ISSET(cpu, &allowed) && index-- == 0) CPU_SET(cpu, &one);
    if (CPU_COUNT(&one)) sched_setaffinity(0, sizeof one, &one);
#endif
    (void)index;
}

static void *run_job(void *argument) {
    job *own = argument;
    stay_on_processor(own->index);
    pthread_barrier_wait(own->start);
    own->began = now();
    if (own->kind == READ)
        own->result = read_all(own->data, own->num_bytes, own->num_passes);
    else
        multiply(own->kind, own->num_passes);
    own->ended = now();
    return NULL;
}

/* num_bytes of memory that has been written, in huge pages or in normal ones; null if there isn't that much. */
char *make_buffer(size_t num_bytes, int is_huge) {
    char *data = aligned_alloc(HUGE_PAGE, num_bytes);
    if (!data) return NULL;
    madvise(data, num_bytes, is_huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    memset(data, 1, num_bytes);
    return data;
}

void free_buffer(char *data) { free(data); }

/* Seconds that num_threads threads take: to read data num_passes times together, or for num_passes each; -1: failed. */
double seconds_of(int kind, int num_threads, const char *data, size_t num_bytes, int64_t num_passes) {
    pthread_t threads[MAX_THREADS];
    job jobs[MAX_THREADS];
    pthread_barrier_t start;
    double began, ended;
    if (num_threads < 1 || num_threads > MAX_THREADS) return -1;
    pthread_barrier_init(&start, NULL, (unsigned)num_threads);
    const size_t part = num_bytes / (size_t)num_threads / 4096 * 4096;
    for (int i = 0; i < num_threads; ++i) {
        jobs[i] = (job){&start, i, kind, data ? data + part * (size_t)i : NULL, part, num_passes, 0, 0, 0};
        if (pthread_create(&threads[i], NULL, run_job, &jobs[i])) return -1;
    }
    for (int i = 0; i < num_threads; ++i) {
        pthread_join(threads[i], NULL);
        if (i == 0 || jobs[i].began < began) began = jobs[i].began;
        if (i == 0 || jobs[i].ended > ended) ended = jobs[i].ended;
    }
    pthread_barrier_destroy(&start);
    return ended - began;
}
