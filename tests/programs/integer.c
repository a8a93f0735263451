/* Integer work of three kinds: a sieve, a checksum by table, a sort. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int ascending(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

int main(void) {
    enum { LIMIT = 2000000, COUNT = 300000 };
    char *composite = calloc(LIMIT, 1);
    unsigned primes = 0;
    for (unsigned i = 2; i < LIMIT; i++) {
        if (composite[i]) continue;
        primes++;
        for (unsigned long j = (unsigned long)i * i; j < LIMIT; j += i) composite[j] = 1;
    }
    uint32_t table[256], sum = ~0u;
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int k = 0; k < 8; k++) c = c & 1 ? c >> 1 ^ 0xedb88320u : c >> 1;
        table[i] = c;
    }
    for (int round = 0; round < 10; round++)
        for (unsigned i = 0; i < LIMIT; i++) sum = table[(sum ^ composite[i]) & 255] ^ sum >> 8;
    uint32_t *numbers = malloc(COUNT * sizeof *numbers), x = 1;
    for (int i = 0; i < COUNT; i++) numbers[i] = x = x * 1664525u + 1013904223u;
    qsort(numbers, COUNT, sizeof *numbers, ascending);
    printf("integer %u %08x %u\n", primes, sum, numbers[COUNT / 2]);
    return 0;
}
