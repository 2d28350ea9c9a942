/* Preloaded into a process, makes it see an x86 CPU with AVX2 and nothing newer: no AVX-512, no VNNI, no AMX.
 *
 * Libraries choose their kernels by the CPUID instruction. Linux can let that instruction fault (arch_prctl ARCH_SET_CPUID, on Intel
 * CPUs with CPUID faulting, man 2 arch_prctl); the handler here runs it and clears the newer features. The kernels that then run are the
 * real ones of such a CPU, their saturation included. Where the CPU cannot fault (AMD), a library of the same name in the folder
 * "patched" beside this one is loaded instead of one that is asked for: a copy in which UD2, as long as CPUID, stands in its place and
 * faults on every CPU. Where there is no such folder, the process ends with exit code 97.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <limits.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define ARCH_SET_CPUID 0x1012

static struct sigaction others; /* what the process itself wants to happen on the signal of the fault */
static int trapped;             /* that signal: SIGSEGV where CPUID itself faults, SIGILL where UD2 stands for it */
static char patched[PATH_MAX];  /* the folder of libraries with UD2 */

static void execute(unsigned leaf, unsigned subleaf, unsigned *a, unsigned *b, unsigned *c, unsigned *d) {
    if (trapped == SIGSEGV) {
        syscall(SYS_arch_prctl, ARCH_SET_CPUID, 1L);
    }
    __asm__ volatile("cpuid" : "=a"(*a), "=b"(*b), "=c"(*c), "=d"(*d) : "a"(leaf), "c"(subleaf));
    if (trapped == SIGSEGV) {
        syscall(SYS_arch_prctl, ARCH_SET_CPUID, 0L);
    }
}

static void emulate(greg_t *registers) {
    unsigned leaf = (unsigned)registers[REG_RAX], subleaf = (unsigned)registers[REG_RCX], a, b, c, d;
    execute(leaf, subleaf, &a, &b, &c, &d);
    if (leaf == 7 && subleaf == 0) {
        b &= ~(1u << 16 | 1u << 17 | 1u << 21 | 1u << 26 | 1u << 27 | 1u << 28 | 1u << 30 | 1u << 31); /* AVX-512 */
        c &= ~(1u << 1 | 1u << 6 | 1u << 11 | 1u << 12 | 1u << 14);                                    /* VBMI, VNNI, BITALG */
        d &= ~(1u << 2 | 1u << 3 | 1u << 8 | 1u << 22 | 1u << 23 | 1u << 24 | 1u << 25);               /* AMX, FP16 */
    } else if (leaf == 7) {
        a = b = c = d = 0; /* AVX-VNNI, AVX-512 BF16, AMX FP16 */
    } else if (leaf == 0x1d || leaf == 0x1e || leaf == 0x24) {
        a = b = c = d = 0; /* tiles, AVX10 */
    }
    registers[REG_RAX] = a, registers[REG_RBX] = b, registers[REG_RCX] = c, registers[REG_RDX] = d;
    registers[REG_RIP] += 2;
}

static int is_cpuid(const siginfo_t *info, const unsigned char *code) {
    Dl_info where;
    if (trapped == SIGSEGV) {
        return info->si_code == SI_KERNEL && code[0] == 0x0f && code[1] == 0xa2;
    }
    return code[0] == 0x0f && code[1] == 0x0b && dladdr(code, &where) && !strncmp(where.dli_fname, patched, strlen(patched));
}

static void on_fault(int signal_number, siginfo_t *info, void *context) {
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    if (is_cpuid(info, (const unsigned char *)registers[REG_RIP])) {
        emulate(registers);
        return;
    }
    if (others.sa_flags & SA_SIGINFO && others.sa_sigaction != NULL) {
        others.sa_sigaction(signal_number, info, context);
        return;
    }
    if (others.sa_handler != SIG_DFL && others.sa_handler != SIG_IGN) {
        others.sa_handler(signal_number);
        return;
    }
    struct sigaction default_action = {.sa_handler = SIG_DFL};
    int (*real)(int, const struct sigaction *, struct sigaction *) = dlsym(RTLD_NEXT, "sigaction");
    real(signal_number, &default_action, NULL); /* the faulting instruction runs again and ends the process */
}

int sigaction(int number, const struct sigaction *wanted, struct sigaction *before) {
    static int (*real)(int, const struct sigaction *, struct sigaction *);
    if (real == NULL) {
        real = dlsym(RTLD_NEXT, "sigaction");
    }
    if (number != trapped) {
        return real(number, wanted, before);
    }
    if (before != NULL) {
        *before = others;
    }
    if (wanted != NULL) {
        others = *wanted;
    }
    return 0;
}

void *dlopen(const char *path, int flags) {
    void *(*real)(const char *, int) = dlsym(RTLD_NEXT, "dlopen");
    char copy[2 * PATH_MAX];
    const char *name = path != NULL ? strrchr(path, '/') : NULL;
    if (trapped == SIGILL && name != NULL) {
        snprintf(copy, sizeof copy, "%s%s", patched, name);
        if (access(copy, R_OK) == 0) {
            return real(copy, flags);
        }
    }
    return real(path, flags);
}

static int find_patched(void) {
    Dl_info own;
    if (!dladdr(patched, &own) || strrchr(own.dli_fname, '/') == NULL) {
        return 0;
    }
    int length = (int)(strrchr(own.dli_fname, '/') - own.dli_fname);
    snprintf(patched, sizeof patched, "%.*s/patched", length, own.dli_fname);
    return access(patched, R_OK) == 0;
}

static int trap(int number) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK;
    others.sa_handler = SIG_DFL;
    int failed = sigaction(number, &action, NULL);
    trapped = number; /* from now on the process's own handlers of this signal are kept in others */
    return failed == 0;
}

__attribute__((constructor)) static void start(void) {
    static const char message[] = "EDGEOPT_TEST_ISA: this CPU cannot let CPUID fault\n";
    if (syscall(SYS_arch_prctl, ARCH_SET_CPUID, 1L) == 0) {
        if (trap(SIGSEGV) && syscall(SYS_arch_prctl, ARCH_SET_CPUID, 0L) == 0) {
            return;
        }
    } else if (find_patched() && trap(SIGILL)) {
        return;
    }
    (void)!write(2, message, sizeof message - 1);
    _exit(97);
}
