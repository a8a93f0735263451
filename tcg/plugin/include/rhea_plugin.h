/* Rhea's plugin interface, version 1.
 *
 * A plugin is a shared object with one function, rhea_plugin_start, which Rhea calls when it loads the object
 * (-plugin file=PATH,key=value,...). The function registers what is to be called; 0 means that all is well.
 *
 * Everything a plugin may call is in struct rhea_host, so a plugin links against nothing. The structure is there as
 * long as the process is; new members come at its end, and "size" says how far it reaches.
 *
 * A unit is a stretch of guest code that is being translated. It and its numbers are good for the length of the call
 * that shows it. Calls come from the threads of all vCPUs (in user mode: of all threads of the program) at once, except
 * those of translation, which come one after the other. A callback must not unwind or jump out.
 */
#ifndef RHEA_PLUGIN_H
#define RHEA_PLUGIN_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define RHEA_PLUGIN_VERSION 1

/* Accesses to memory; both bits: an atomic one, whose value is the old one. */
#define RHEA_LOAD 1u
#define RHEA_STORE 2u
/* The value is known: accesses of at most 8 bytes. */
#define RHEA_VALUE 4u

typedef struct rhea_unit rhea_unit;
typedef struct rhea_host rhea_host;

typedef struct rhea_access {
    uint64_t address; /* guest virtual address */
    uint64_t value;
    uint32_t size; /* bytes */
    uint32_t flags;
} rhea_access;

struct rhea_host {
    uint32_t version;
    uint32_t size;    /* bytes of this structure */
    const char *arch; /* of the guest: "riscv64", "x86_64", ... */
    uint32_t system;  /* 1: a whole machine, 0: a program */
    uint32_t reserved;
    void *state; /* Rhea's */

    /* What is to be called. A second registration adds to the first. */
    void (*on_translate)(const rhea_host *, void (*)(void *data, rhea_unit *), void *data);
    void (*on_vcpu)(const rhea_host *, void (*)(void *data, uint32_t vcpu, int started), void *data);
    /* In a child process, whose only thread is the caller. */
    void (*on_fork)(const rhea_host *, void (*)(void *data), void *data);
    /* The guest has ended, no vCPU runs. */
    void (*on_end)(const rhea_host *, void (*)(void *data), void *data);

    /* Counters that translated code adds to without a call: -1 if none is left. The total is exact in on_end, and as of
     * the last time each vCPU left translated code otherwise. */
    int (*counter)(const rhea_host *);
    uint64_t (*counter_total)(const rhea_host *, int counter);

    /* Prints to Rhea's log. */
    void (*print)(const rhea_host *, const char *text);

    /* A unit: its instructions, and its blocks, which are stretches of instructions that run one behind the other. */
    size_t (*unit_insns)(const rhea_unit *);
    size_t (*unit_blocks)(const rhea_unit *);
    void (*unit_block)(const rhea_unit *, size_t block, size_t *first, size_t *count);
    uint64_t (*insn_address)(const rhea_unit *, size_t insn);
    /* Copies at most "size" bytes; how many the instruction has. */
    size_t (*insn_bytes)(const rhea_unit *, size_t insn, uint8_t *out, size_t size);
    /* Disassembly, cut to "size" and ended by a zero; how long all of it is. */
    size_t (*insn_text)(const rhea_unit *, size_t insn, char *out, size_t size);

    /* Requests: 0, or -1 if that cannot be. At most 256 different functions can be named by one plugin. */
    /* Called whenever the instruction starts. */
    int (*insn_call)(const rhea_host *, rhea_unit *, size_t insn, void (*)(void *data, uint32_t vcpu), void *data);
    /* Adds n to a counter whenever it starts. */
    int (*insn_count)(const rhea_host *, rhea_unit *, size_t insn, int counter, uint32_t n);
    /* Called for each of its accesses that does what "which" says, once it has been done. */
    int (*insn_access)(const rhea_host *, rhea_unit *, size_t insn, uint32_t which,
                       void (*)(void *data, uint32_t vcpu, const rhea_access *), void *data);
};

/* argv: the option's arguments, each "key=value". */
int rhea_plugin_start(const rhea_host *host, int argc, const char *const *argv);

#ifdef __cplusplus
}
#endif

#endif
