/* One end of TCP: net ADDRESS PORT send MIB | receive | connect COUNT | echo COUNT. */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static char block[1 << 16];

static int dial(const char *address, const char *port) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(atoi(port))};
    int one = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || !inet_aton(address, &to.sin_addr) || connect(fd, (struct sockaddr *)&to, sizeof to)) {
        perror("connect");
        exit(1);
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return fd;
}

static long drain(int fd) {
    long n, all = 0;
    while ((n = read(fd, block, sizeof block)) > 0) all += n;
    close(fd);
    return n < 0 ? n : all;
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

int main(int count, char **words) {
    if (count < 4) return 2;
    const char *what = words[3];
    long times = count > 4 ? atol(words[4]) : 0, done = 0;
    double began = now();
    if (!strcmp(what, "connect")) {
        for (; done < times; done++)
            if (drain(dial(words[1], words[2])) < 0) return 1;
    } else {
        int fd = dial(words[1], words[2]);
        if (!strcmp(what, "receive")) {
            done = drain(fd);
        } else if (!strcmp(what, "send")) {
            for (times <<= 20; done < times;) {
                long n = write(fd, block, sizeof block);
                if (n < 0) return 1;
                done += n;
            }
            shutdown(fd, SHUT_WR);
            if (drain(fd) < 0) return 1;
        } else {
            for (; done < times; done++)
                if (write(fd, block, 1) != 1 || read(fd, block, 1) != 1) return 1;
        }
    }
    printf("%s %ld in %.0f us\n", what, done, (now() - began) * 1e6);
    return 0;
}
