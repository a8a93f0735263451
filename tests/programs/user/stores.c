/* Stores 1 to N, in words, to a place it says the address of, and loads them again. */
#include <stdio.h>

static volatile unsigned place[64];

int main(void)
{
    unsigned sum = 0;
    for (unsigned i = 0; i < 64; i++)
        place[i] = i + 1;
    for (unsigned i = 0; i < 64; i++)
        sum += place[i];
    printf("%p %u\n", (void *)place, sum);
    return 0;
}
