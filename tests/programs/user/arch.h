/* What the architectures under test have in common by other names: code that returns a number, what a handler may change. */
#include <stdint.h>
#include <string.h>

#if defined(__riscv)
#define MACHINE "riscv64"
/* li a0, n; ret */
static void write_code(char *at, int n)
{
    uint32_t code[2] = { 0x00000513u | (uint32_t)n << 20, 0x00008067 };
    memcpy(at, code, 8);
}
/* The number alone, in one store. */
static void change_code(char *at, int n) { *(volatile uint32_t *)at = 0x00000513u | (uint32_t)n << 20; }
#define FENCE_CODE() asm volatile("fence.i")
#define CONTEXT_PC(uc) (uc)->uc_mcontext.__gregs[REG_PC]
#define CONTEXT_RESULT(uc) (uc)->uc_mcontext.__gregs[REG_A0]
#define INSN_LENGTH(pc) ((*(uint16_t *)(pc)&3) == 3 ? 4 : 2)
#define BAD_LOAD(result)                                                                                               \
    do {                                                                                                               \
        register long a0 asm("a0") = 0;                                                                                \
        asm volatile("ld a0, 0(zero)" : "+r"(a0) : : "memory");                                                        \
        result = a0;                                                                                                   \
    } while (0)
#define BAD_INSN(result)                                                                                               \
    do {                                                                                                               \
        register long a0 asm("a0") = 0;                                                                                \
        asm volatile(".half 0" : "+r"(a0) : : "memory");                                                               \
        result = a0;                                                                                                   \
    } while (0)
#else
#if defined(__x86_64__)
#define MACHINE "x86_64"
#define CONTEXT_PC(uc) (uc)->uc_mcontext.gregs[REG_RIP]
#define CONTEXT_RESULT(uc) (uc)->uc_mcontext.gregs[REG_RAX]
#else
#define MACHINE "i686"
#define CONTEXT_PC(uc) (uc)->uc_mcontext.gregs[REG_EIP]
#define CONTEXT_RESULT(uc) (uc)->uc_mcontext.gregs[REG_EAX]
#endif
/* mov eax, n; ret */
static void write_code(char *at, int n)
{
    at[0] = (char)0xb8;
    memcpy(at + 1, &n, 4);
    at[5] = (char)0xc3;
}
static void change_code(char *at, int n) { *(volatile int *)(at + 1) = n; }
#define FENCE_CODE() ((void)0)
/* mov eax, [0] has 8 bytes with an absolute address in 64-bit mode, 6 in 32-bit mode; ud2 has 2. */
#define INSN_LENGTH(pc) (*(uint16_t *)(pc) == 0x0b0f ? 2 : sizeof(long) == 8 ? 7 : 5)
#define BAD_LOAD(result)                                                                                               \
    do {                                                                                                               \
        register long a0 asm("eax") = 0;                                                                               \
        asm volatile(BAD_LOAD_CODE : "+r"(a0) : : "memory");                                                           \
        result = a0;                                                                                                   \
    } while (0)
#ifdef __x86_64__
#define BAD_LOAD_CODE ".byte 0x8b, 0x04, 0x25, 0, 0, 0, 0"
#else
#define BAD_LOAD_CODE ".byte 0xa1, 0, 0, 0, 0"
#endif
#define BAD_INSN(result)                                                                                               \
    do {                                                                                                               \
        register long a0 asm("eax") = 0;                                                                               \
        asm volatile("ud2" : "+r"(a0) : : "memory");                                                                   \
        result = a0;                                                                                                   \
    } while (0)
#endif
