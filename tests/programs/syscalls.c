/* Entering and leaving the kernel, and switching between two address spaces through a pipe. */
#include <stdio.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

int main(void) {
    long sum = 0;
    for (int i = 0; i < 1000000; i++) sum += syscall(SYS_getppid) > 0;
    int there[2], back[2];
    if (pipe(there) || pipe(back)) return 1;
    char byte = 0;
    if (fork() == 0) {
        for (int i = 0; i < 20000; i++)
            if (read(there[0], &byte, 1) != 1 || write(back[1], &byte, 1) != 1) _exit(1);
        _exit(0);
    }
    for (int i = 0; i < 20000; i++)
        if (write(there[1], &byte, 1) != 1 || read(back[0], &byte, 1) != 1) return 1;
    int status;
    wait(&status);
    printf("syscalls %ld %d\n", sum, status);
    return 0;
}
