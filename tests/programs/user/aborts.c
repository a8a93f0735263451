// Ends by a signal, with something to be found in its core.
#include <stdlib.h>

volatile int kept = 1;

__attribute__((noinline)) static void deeper(int n)
{
    kept = n * 7;
    abort();
}

int main(void)
{
    deeper(11);
    return kept;
}
