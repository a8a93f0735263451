/* Calls and returns, direct and through a pointer. */
#include <stdio.h>

__attribute__((noinline)) static unsigned fibonacci(unsigned n) { return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2); }
__attribute__((noinline)) static unsigned add(unsigned x) { return x + 3; }
__attribute__((noinline)) static unsigned mix(unsigned x) { return x * 5 ^ x >> 3; }
__attribute__((noinline)) static unsigned turn(unsigned x) { return x << 7 | x >> 25; }
__attribute__((noinline)) static unsigned flip(unsigned x) { return ~x; }

int main(void) {
    unsigned (*volatile table[4])(unsigned) = {add, mix, turn, flip};
    unsigned x = 1;
    for (int i = 0; i < 8000000; i++) x = table[x >> 5 & 3](x);
    printf("calls %u %u\n", fibonacci(34), x);
    return 0;
}
