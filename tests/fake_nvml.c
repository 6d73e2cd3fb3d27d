/* A libnvidia-ml.so.1 without a GPU, for tests of the way through ctypes: two well GPUs joined by
 * two NVLinks. What is not defined here is a function that an old driver lacks. FAKE_NVML in the
 * environment chooses a mishap: hang-init, hang-uuid (of GPU 1), lost, not-loaded, crash, mig.
 * FAKE_NVML_PID names a file for the id of the process that hangs.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OK = 0, INVALID = 2, UNSUPPORTED = 3, TOO_SMALL = 7, NOT_LOADED = 9, LOST = 15 };

struct gpu { unsigned index; };
struct pci {
    char legacy[16];
    unsigned domain, bus, device, id, subsystem;
    char address[32];
};
struct memory { unsigned long long total, unused, used; };
struct process { unsigned pid; unsigned long long memory; unsigned instance, part; };
struct field {
    uint32_t id, scope;
    int64_t stamp, latency;
    unsigned type, result;
    union { unsigned u; double d; long long l; } value;
};

static struct gpu gpus[2] = {{0}, {1}};

static int mishap(const char *name) {
    const char *chosen = getenv("FAKE_NVML");
    return chosen && !strcmp(chosen, name);
}

static void hang(void) {
    const char *path = getenv("FAKE_NVML_PID");
    FILE *file = path ? fopen(path, "w") : NULL;
    if (file) {
        fprintf(file, "%d", (int)getpid());
        fclose(file);
    }
    for (;;) pause();
}

static int text(char *to, unsigned length, const char *from) {
    if (strlen(from) >= length) return TOO_SMALL;
    strcpy(to, from);
    return OK;
}

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    if (mishap("hang-init")) hang();
    if (mishap("crash")) abort();
    return mishap("not-loaded") ? NOT_LOADED : OK;
}
int nvmlSystemGetDriverVersion(char *to, unsigned length) { return text(to, length, "535.1.fake"); }
int nvmlSystemGetNVMLVersion(char *to, unsigned length) { return text(to, length, "12.535.1"); }
int nvmlSystemGetCudaDriverVersion_v2(int *version) { *version = 12020; return OK; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 2; return OK; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, struct gpu **gpu) {
    if (index > 1) return INVALID;
    if (index == 1 && mishap("lost")) return LOST;
    *gpu = &gpus[index];
    return OK;
}
int nvmlDeviceGetName(struct gpu *gpu, char *to, unsigned length) {
    (void)gpu;
    return text(to, length, "Fake GPU");
}
int nvmlDeviceGetUUID(struct gpu *gpu, char *to, unsigned length) {
    if (gpu->index == 1 && mishap("hang-uuid")) hang();
    return text(to, length, gpu->index ? "GPU-1111" : "GPU-0000");
}
static int address(unsigned index, struct pci *pci) {
    memset(pci, 0, sizeof *pci);
    pci->bus = 0x3B + index;
    snprintf(pci->address, sizeof pci->address, "%08X:%02X:00.0", 0u, pci->bus);
    return OK;
}
int nvmlDeviceGetPciInfo_v3(struct gpu *gpu, struct pci *pci) { return address(gpu->index, pci); }
int nvmlDeviceGetMemoryInfo(struct gpu *gpu, struct memory *memory) {
    memory->total = 16ull << 30;
    memory->used = (unsigned long long)(gpu->index + 1) << 30;
    memory->unused = memory->total - memory->used;
    return OK;
}
int nvmlDeviceGetEccMode(struct gpu *gpu, unsigned *now, unsigned *later) {
    (void)gpu, (void)now, (void)later;
    return UNSUPPORTED;
}
int nvmlDeviceGetMigMode(struct gpu *gpu, unsigned *now, unsigned *later) {
    *now = *later = gpu->index == 1 && mishap("mig");
    return OK;
}
int nvmlDeviceGetTemperature(struct gpu *gpu, unsigned sensor, unsigned *degrees) {
    (void)sensor;
    *degrees = 40 + gpu->index;
    return OK;
}
int nvmlDeviceGetRemappedRows(struct gpu *gpu, unsigned *corrected, unsigned *uncorrected,
                              unsigned *pending, unsigned *failed) {
    (void)gpu;
    *corrected = 3;
    *uncorrected = *pending = *failed = 0;
    return OK;
}
int nvmlDeviceGetRetiredPages(struct gpu *gpu, unsigned cause, unsigned *count,
                              unsigned long long *pages) {
    (void)gpu;
    if (*count < 1) { *count = 1; return TOO_SMALL; }
    *count = 1;
    pages[0] = 0x1000 + cause;
    return OK;
}
int nvmlDeviceGetFieldValues(struct gpu *gpu, int count, struct field *fields) {
    (void)gpu;
    for (int i = 0; i < count; i++) {
        fields[i].result = OK;
        fields[i].value.u = 0;
    }
    return OK;
}
int nvmlDeviceGetComputeRunningProcesses_v3(struct gpu *gpu, unsigned *count, struct process *held) {
    if (gpu->index == 0) { *count = 0; return OK; }
    if (*count < 1) { *count = 1; return TOO_SMALL; }
    *count = 1;
    held[0] = (struct process){1, 512ull << 20, 0, 0};
    return OK;
}
int nvmlDeviceGetGraphicsRunningProcesses_v3(struct gpu *gpu, unsigned *count, void *held) {
    (void)gpu, (void)held;
    *count = 0;
    return OK;
}
int nvmlDeviceGetNvLinkState(struct gpu *gpu, unsigned link, unsigned *active) {
    (void)gpu;
    *active = 1;
    return link < 2 ? OK : INVALID;
}
int nvmlDeviceGetNvLinkRemoteDeviceType(struct gpu *gpu, unsigned link, unsigned *kind) {
    (void)gpu, (void)link;
    *kind = 0;
    return OK;
}
int nvmlDeviceGetNvLinkRemotePciInfo_v2(struct gpu *gpu, unsigned link, struct pci *pci) {
    (void)link;
    return address(1 - gpu->index, pci);
}
int nvmlDeviceGetTopologyCommonAncestor(struct gpu *one, struct gpu *other, unsigned *level) {
    (void)one, (void)other;
    *level = 20;
    return OK;
}
int nvmlDeviceGetP2PStatus(struct gpu *one, struct gpu *other, unsigned way, unsigned *status) {
    (void)one, (void)other, (void)way;
    *status = 0;
    return OK;
}
