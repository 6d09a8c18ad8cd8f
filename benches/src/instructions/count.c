/* Counts what an emulated program executes: a plugin for qemu's user-mode emulation.
 *
 * qemu translates a program block by block. For each block this asks to be called whenever it is
 * executed, and adds the block's number of instructions. The total is written at the end to the
 * file named by the argument `out=FILE`.
 *
 * qemu's header is not part of Debian's packages, so the few declarations that are needed stand
 * here; it is an interface of plain C that qemu keeps stable and numbers. PLUGIN_API is the number
 * that the qemu at hand knows.
 */
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

typedef uint64_t qemu_id;
struct qemu_tb;
/* Only ever passed by pointer, and not looked into. */
struct qemu_info;

void qemu_plugin_register_vcpu_tb_trans_cb(qemu_id, void (*)(qemu_id, struct qemu_tb *));
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_tb *, void (*)(unsigned, void *), int flags,
                                          void *data);
void qemu_plugin_register_atexit_cb(qemu_id, void (*)(qemu_id, void *), void *data);
size_t qemu_plugin_tb_n_insns(const struct qemu_tb *);

EXPORT int qemu_plugin_version = PLUGIN_API;

/* The callback reads no registers: qemu calls that QEMU_PLUGIN_CB_NO_REGS. */
enum { NO_REGS = 0 };

/* Every thread of the program adds to it. */
static _Atomic uint64_t executed;
static char out[4096];

static void on_executed(unsigned cpu, void *instructions)
{
    (void)cpu;
    atomic_fetch_add_explicit(&executed, (uintptr_t)instructions, memory_order_relaxed);
}

static void on_translated(qemu_id id, struct qemu_tb *block)
{
    (void)id;
    /* The number itself travels in the pointer: nothing to allocate or free. */
    void *instructions = (void *)(uintptr_t)qemu_plugin_tb_n_insns(block);
    qemu_plugin_register_vcpu_tb_exec_cb(block, on_executed, NO_REGS, instructions);
}

static void on_exit(qemu_id id, void *data)
{
    (void)id;
    (void)data;
    FILE *file = fopen(out, "w");
    if (file) {
        fprintf(file, "%llu\n", (unsigned long long)atomic_load(&executed));
        fclose(file);
    }
}

EXPORT int qemu_plugin_install(qemu_id id, const struct qemu_info *info, int argc, char **argv)
{
    (void)info;
    if (argc != 1 || strncmp(argv[0], "out=", 4) != 0 || strlen(argv[0] + 4) >= sizeof out) {
        fputs("count: expects out=FILE\n", stderr);
        return -1;
    }
    strcpy(out, argv[0] + 4);
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translated);
    qemu_plugin_register_atexit_cb(id, on_exit, NULL);
    return 0;
}
