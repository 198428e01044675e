/* Preloaded into every process of a test: notes in a file each attempt to reach a network, and refuses. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void note(const char *what) {
    const char *path = getenv("PHAROS_TEST_NETWORK_LOG");
    int file = path ? open(path, O_WRONLY | O_APPEND | O_CREAT, 0600) : -1;
    if (file >= 0) {
        if (write(file, what, strlen(what)) < 0) abort();
        close(file);
    }
}

int connect(int socket, const struct sockaddr *address, socklen_t length) {
    (void)socket;
    (void)length;
    note(address->sa_family == AF_UNIX ? "connect unix\n" : "connect\n");
    errno = ENETUNREACH;
    return -1;
}

ssize_t sendto(int socket, const void *data, size_t size, int flags, const struct sockaddr *address,
               socklen_t length) {
    if (address == NULL) return send(socket, data, size, flags);
    (void)length;
    note("sendto\n");
    errno = ENETUNREACH;
    return -1;
}

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints,
                struct addrinfo **result) {
    (void)service;
    (void)hints;
    (void)result;
    note("getaddrinfo ");
    note(node ? node : "");
    note("\n");
    return EAI_FAIL;
}
