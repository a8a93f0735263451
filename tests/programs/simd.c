/* Loops that a compiler makes vectors of: single-precision sums of products, bytes that saturate, rows of integers. */
#include <stdio.h>

enum { SIZE = 4096, ROUNDS = 20000 };
static float a[SIZE], b[SIZE];
static unsigned char p[SIZE], q[SIZE];
static int r[SIZE], s[SIZE];

int main(void) {
    for (int i = 0; i < SIZE; i++) {
        a[i] = i % 13 * 0.25f, b[i] = i % 7 * 0.5f;
        p[i] = i * 31, q[i] = i * 17;
        r[i] = i * 2654435761u >> 8, s[i] = i;
    }
    for (int round = 0; round < ROUNDS; round++) {
        float k = round % 3 * 0.125f;
        for (int i = 0; i < SIZE; i++) a[i] = a[i] * 0.5f + b[i] * k;
        for (int i = 0; i < SIZE; i++) {
            int sum = p[i] + q[i];
            p[i] = sum > 255 ? 255 : sum;
        }
        for (int i = 0; i < SIZE; i++) s[i] = (s[i] ^ r[i]) + (r[i] >> 3);
        p[round % SIZE] = round;
    }
    double total = 0;
    unsigned bytes = 0, words = 0;
    for (int i = 0; i < SIZE; i++) total += a[i], bytes += p[i], words += s[i];
    printf("simd %.3f %u %u\n", total, bytes, words);
    return 0;
}
