/* A plugin that uses all of the interface: counts instructions in two ways, blocks and their lengths, and what happens to the words
 * from "at" on. */
#include "rhea_plugin.h"
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const rhea_host *host;
static int counter;
static unsigned long long at;
static _Atomic unsigned long long calls, loads, stores, sum, inside, threads;

static void executed(void *data, uint32_t vcpu) { calls++; }
static void entered(void *data, uint32_t vcpu) { inside += (uintptr_t)data; }

static void accessed(void *data, uint32_t vcpu, const rhea_access *a)
{
    if (a->address < at || a->address >= at + 256)
        return;
    if (a->size != 4 || !(a->flags & RHEA_VALUE))
        abort();
    if (a->flags & RHEA_STORE)
        stores++;
    else
        loads++;
    sum += a->value;
}

static void translated(void *data, rhea_unit *u)
{
    uint8_t bytes[16];
    char text[64];
    size_t covered = 0;
    for (size_t i = 0; i < host->unit_insns(u); i++) {
        size_t n = host->insn_bytes(u, i, bytes, sizeof bytes);
        if (n == 0 || n > sizeof bytes || host->insn_text(u, i, text, sizeof text) == 0 || host->insn_address(u, i) == 0)
            abort();
        if (host->insn_call(host, u, i, executed, 0) || host->insn_count(host, u, i, counter, 1)
            || host->insn_access(host, u, i, RHEA_LOAD | RHEA_STORE, accessed, 0))
            abort();
    }
    for (size_t b = 0; b < host->unit_blocks(u); b++) {
        size_t first, count;
        host->unit_block(u, b, &first, &count);
        covered += count;
        if (host->insn_call(host, u, first, entered, (void *)(uintptr_t)count))
            abort();
    }
    /* What cannot be is refused. */
    if (covered != host->unit_insns(u) || host->insn_call(host, u, covered, executed, 0) != -1
        || host->insn_count(host, u, 0, 99, 1) != -1)
        abort();
}

static void vcpu(void *data, uint32_t vcpu, int started) { threads += started; }

static void ended(void *data)
{
    char text[256];
    unsigned long long counted = host->counter_total(host, counter);
    snprintf(text, sizeof text, "%s counted %llu calls %llu blocks %llu loads %llu stores %llu sum %llu threads %llu\n",
             host->arch, counted, calls, inside, loads, stores, sum, threads);
    host->print(host, text);
}

int rhea_plugin_start(const rhea_host *h, int argc, const char *const *argv)
{
    if (h->version != RHEA_PLUGIN_VERSION || h->size < sizeof *h)
        return 1;
    host = h;
    counter = h->counter(h);
    for (int i = 0; i < argc; i++) {
        if (strncmp(argv[i], "at=", 3) != 0)
            return 2;
        at = strtoull(argv[i] + 3, 0, 0);
    }
    h->on_translate(h, translated, 0);
    h->on_vcpu(h, vcpu, 0);
    h->on_end(h, ended, 0);
    return 0;
}
