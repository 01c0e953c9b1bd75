/* Debian trixie's static Swift runtime calls these, which are newer than the C library of Debian 12. */
#define _GNU_SOURCE
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

long __isoc23_strtol(const char *text, char **end, int base) { return strtol(text, end, base); }
long long __isoc23_strtoll(const char *text, char **end, int base) { return strtoll(text, end, base); }
unsigned long __isoc23_strtoul(const char *text, char **end, int base) { return strtoul(text, end, base); }

int __isoc23_sscanf(const char *text, const char *format, ...) {
    va_list values;
    va_start(values, format);
    int read = vsscanf(text, format, values);
    va_end(values);
    return read;
}

/* Weak: a newer C library's own go first. */
__attribute__((weak)) size_t strlcpy(char *to, const char *from, size_t room) {
    size_t length = strlen(from);
    if (room) {
        size_t copied = length < room - 1 ? length : room - 1;
        memcpy(to, from, copied);
        to[copied] = 0;
    }
    return length;
}

__attribute__((weak)) size_t strlcat(char *to, const char *from, size_t room) {
    size_t length = strnlen(to, room);
    return length == room ? room + strlen(from) : length + strlcpy(to + length, from, room - length);
}
