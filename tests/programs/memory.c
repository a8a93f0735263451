/* Bulk copies, fills and scans in and out of the caches. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(void) {
    enum { SIZE = 1 << 20 };
    char *from = malloc(SIZE + 1), *to = malloc(SIZE + 1);
    unsigned long sum = 0;
    memset(from, 'x', SIZE);
    from[SIZE] = 0;
    for (int round = 0; round < 200; round++) {
        from[round] = 'a' + round % 26;
        memcpy(to, from, SIZE + 1);
        sum += strlen(to) + (memcmp(from, to, SIZE) == 0) + (unsigned char)to[round];
    }
    printf("memory %lu\n", sum);
    return 0;
}
