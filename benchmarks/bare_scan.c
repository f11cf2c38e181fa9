/* The least that any reader of scalars has to do, in C: one pass over a mapped event file, both
   checksums, and step, wall time, tag and value into columns. Nothing is handled but what the
   benchmark's own file holds. Prints the seconds of the first and of the fastest of five passes.

       cc -O3 -o bare_scan benchmarks/bare_scan.c && ./bare_scan EVENT_FILE */

#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>

static uint32_t table[8][256];

static void prepare(void) {
    for (int i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int k = 0; k < 8; k++) c = (c >> 1) ^ (c & 1 ? 0x82F63B78u : 0);
        table[0][i] = c;
    }
    for (int i = 0; i < 256; i++)
        for (int k = 1; k < 8; k++)
            table[k][i] = (table[k - 1][i] >> 8) ^ table[0][table[k - 1][i] & 0xff];
}

static uint64_t get64(const uint8_t *p) { uint64_t v; memcpy(&v, p, 8); return v; }
static uint32_t get32(const uint8_t *p) { uint32_t v; memcpy(&v, p, 4); return v; }

static uint32_t mask(uint32_t c) { c = ~c; return ((c >> 15) | (c << 17)) + 0xa282ead8u; }

static uint32_t crc_tables(const uint8_t *p, size_t n) {
    uint32_t c = ~0u;
    for (; n >= 8; p += 8, n -= 8) {
        uint64_t w = get64(p) ^ c;
        c = table[7][w & 0xff] ^ table[6][w >> 8 & 0xff] ^ table[5][w >> 16 & 0xff]
          ^ table[4][w >> 24 & 0xff] ^ table[3][w >> 32 & 0xff] ^ table[2][w >> 40 & 0xff]
          ^ table[1][w >> 48 & 0xff] ^ table[0][w >> 56];
    }
    for (; n; p++, n--) c = (c >> 8) ^ table[0][(c ^ *p) & 0xff];
    return c;
}

#ifdef __x86_64__
__attribute__((target("sse4.2"))) static uint32_t crc_sse42(const uint8_t *p, size_t n) {
    uint64_t c = ~0u;
    for (; n >= 8; p += 8, n -= 8) c = __builtin_ia32_crc32di(c, get64(p));
    for (; n; p++, n--) c = __builtin_ia32_crc32qi(c, *p);
    return c;
}
#endif

static uint32_t (*crc)(const uint8_t *, size_t) = crc_tables;

static uint64_t varint(const uint8_t **p) {
    uint64_t v = 0;
    for (int s = 0;; s += 7) {
        uint8_t b = *(*p)++;
        v |= (uint64_t)(b & 0x7f) << s;
        if (b < 0x80) return v;
    }
}

static const uint8_t *tags[64];
static uint64_t tag_sizes[64];
static int tag_count;

static int tag_number(const uint8_t *at, uint64_t size) {
    for (int i = 0; i < tag_count; i++)
        if (tag_sizes[i] == size && !memcmp(tags[i], at, size)) return i;
    tags[tag_count] = at;
    tag_sizes[tag_count] = size;
    return tag_count++;
}

static size_t rows;
static int64_t *steps;
static double *wall_times, *values;
static int32_t *codes;

static uint64_t skip(const uint8_t **p, const uint8_t **content) {
    uint64_t key = varint(p), size = 0;
    switch (key & 7) {
        case 0: *content = *p; varint(p); return key;
        case 1: size = 8; break;
        case 5: size = 4; break;
        default: size = varint(p);
    }
    *content = *p;
    *p += size;
    return key;
}

static void parse(const uint8_t *p, const uint8_t *end) {
    double wall_time = 0;
    int64_t step = 0;
    while (p < end) {
        const uint8_t *content;
        uint64_t key = skip(&p, &content);
        if (key == 9) memcpy(&wall_time, content, 8);
        if (key == 16) step = varint(&content);
        if (key != 42) continue;
        for (const uint8_t *q = content, *value; q < p;) {
            skip(&q, &value);
            while (value < q) {
                const uint8_t *field;
                uint64_t value_key = skip(&value, &field);
                if (value_key == 10) codes[rows] = tag_number(field, value - field);
                if (value_key != 66) continue;
                for (const uint8_t *part; field < value;)
                    if (skip(&field, &part) == 42) {
                        float number;
                        memcpy(&number, part, 4);
                        values[rows] = number;
                    }
            }
            steps[rows] = step;
            wall_times[rows++] = wall_time;
        }
    }
}

int main(int argc, char **argv) {
    int file = argc > 1 ? open(argv[1], O_RDONLY) : -1;
    struct stat status;
    if (file < 0 || fstat(file, &status)) return 2;
    prepare();
#ifdef __x86_64__
    if (__builtin_cpu_supports("sse4.2")) crc = crc_sse42;
#endif
    double first = 0, best = 1e9;
    for (int pass = 0; pass < 5; pass++) {
        struct timespec start, stop;
        clock_gettime(CLOCK_MONOTONIC, &start);
        const uint8_t *data = mmap(0, status.st_size, PROT_READ, MAP_PRIVATE, file, 0);
        size_t limit = status.st_size / 40;
        steps = malloc(8 * limit), wall_times = malloc(8 * limit);
        values = malloc(8 * limit), codes = malloc(4 * limit);
        rows = tag_count = 0;
        for (const uint8_t *p = data, *end = data + status.st_size; p < end;) {
            uint64_t length = get64(p);
            if (mask(crc(p, 8)) != get32(p + 8)) return 1;
            if (mask(crc(p + 12, length)) != get32(p + 12 + length)) return 1;
            parse(p + 12, p + 12 + length);
            p += length + 16;
        }
        clock_gettime(CLOCK_MONOTONIC, &stop);
        double seconds = stop.tv_sec - start.tv_sec + 1e-9 * (stop.tv_nsec - start.tv_nsec);
        if (pass == 0) first = seconds;
        if (seconds < best) best = seconds;
        free(steps), free(wall_times), free(values), free(codes);
        munmap((void *)data, status.st_size);
    }
    printf("%.6f %.6f %zu\n", first, best, rows);
    return 0;
}
