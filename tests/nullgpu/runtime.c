/* The calls of NVIDIA's libraries that must answer something; build.py lets all others of them do nothing. */
#include <driver_types.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { PROCESSORS = 132, THREADS = 1024, MOST_PINS = 1 << 16 };
static const size_t MEMORY = (size_t)80 << 30;
static size_t handles = 0;
static struct { char *start; size_t size; } pins[MOST_PINS];
static int pinned = 0;

static int give(void **handle) { *handle = (void *)(handles += 8); return 0; }
static int do_nothing(void) { return 0; }

/* memory: that of the host, without contents until it is written to */
int cudaMalloc(void **p, size_t size) {
    *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return *p == MAP_FAILED ? cudaErrorMemoryAllocation : cudaSuccess;
}
int cudaHostAlloc(void **p, size_t size, unsigned flags) {
    *p = aligned_alloc(512, (size + 511) / 512 * 512);
    pins[pinned % MOST_PINS].start = *p;
    pins[pinned++ % MOST_PINS].size = size;
    return 0;
}
int cudaPointerGetAttributes(struct cudaPointerAttributes *about, const void *p) {
    memset(about, 0, sizeof *about);
    for (int i = 0; i < pinned && i < MOST_PINS; i++)
        if ((char *)p >= pins[i].start && (char *)p < pins[i].start + pins[i].size) about->type = cudaMemoryTypeHost;
    return 0;
}
int cudaMemcpy(void *to, const void *from, size_t size, int kind) { memmove(to, from, size); return 0; }
int cudaMemcpyAsync(void *to, const void *from, size_t size, int kind, void *stream) { memmove(to, from, size); return 0; }
int cudaMemset(void *p, int value, size_t size) { memset(p, value, size); return 0; }
int cudaMemsetAsync(void *p, int value, size_t size, void *stream) { memset(p, value, size); return 0; }
int cudaMemGetInfo(size_t *available, size_t *total) { *available = *total = MEMORY; return 0; }

/* the device */
static int current = 0;
int cudaGetDeviceCount(int *count) { *count = 2; return 0; }
int cudaGetDevice(int *device) { *device = current; return 0; }
int cudaSetDevice(int device) { current = device; return 0; }
int cudaRuntimeGetVersion(int *version) { *version = 13000; return 0; }
int cudaDriverGetVersion(int *version) { *version = 13000; return 0; }
int cudaDeviceCanAccessPeer(int *can, int device, int peer) { *can = 0; return 0; }
int cudaDeviceGetPCIBusId(char *name, int size, int device) { strcpy(name, "0000:00:00.0"); return 0; }
int cudaDeviceGetStreamPriorityRange(int *least, int *greatest) { *least = 0; *greatest = -5; return 0; }
int cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int device) {
    switch (attribute) {
        case cudaDevAttrComputeCapabilityMajor: *value = 9; break;
        case cudaDevAttrComputeCapabilityMinor: *value = 0; break;
        case cudaDevAttrMultiProcessorCount: *value = PROCESSORS; break;
        case cudaDevAttrWarpSize: *value = 32; break;
        case cudaDevAttrMaxThreadsPerMultiProcessor: *value = 2 * THREADS; break;
        case cudaDevAttrMaxSharedMemoryPerBlock: *value = 48 << 10; break;
        case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = 227 << 10; break;
        case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = 228 << 10; break;
        case cudaDevAttrMaxRegistersPerBlock: case cudaDevAttrMaxRegistersPerMultiprocessor: *value = 64 << 10; break;
        default: *value = THREADS;
    }
    return 0;
}
int cudaGetDeviceProperties(struct cudaDeviceProp *about, int device) {
    strcpy(about->name, "NVIDIA GPU that does nothing");
    about->totalGlobalMem = MEMORY;
    about->major = 9;
    about->minor = 0;
    about->warpSize = 32;
    about->multiProcessorCount = PROCESSORS;
    about->maxThreadsPerBlock = about->maxThreadsDim[0] = about->maxThreadsDim[1] = THREADS;
    about->maxThreadsDim[2] = 64;
    about->maxThreadsPerMultiProcessor = 2 * THREADS;
    about->maxBlocksPerMultiProcessor = 32;
    about->maxGridSize[0] = 0x7fffffff;
    about->maxGridSize[1] = about->maxGridSize[2] = 0xffff;
    about->sharedMemPerBlock = 48 << 10;
    about->sharedMemPerBlockOptin = 227 << 10;
    about->sharedMemPerMultiprocessor = 228 << 10;
    about->regsPerBlock = about->regsPerMultiprocessor = 64 << 10;
    about->textureAlignment = 512;
    return 0;
}

/* streams, events and kernels */
int cudaStreamCreate(void **stream) { return give(stream); }
int cudaStreamCreateWithFlags(void **stream, unsigned flags) { return give(stream); }
int cudaStreamCreateWithPriority(void **stream, unsigned flags, int priority) { return give(stream); }
int cudaStreamGetPriority(void *stream, int *priority) { *priority = 0; return 0; }
int cudaStreamIsCapturing(void *stream, int *status) { *status = 0; return 0; }
int cudaStreamGetCaptureInfo(void *stream, int *status) { *status = 0; return 0; }
int cudaEventCreate(void **event) { return give(event); }
int cudaEventCreateWithFlags(void **event, unsigned flags) { return give(event); }
int cudaEventElapsedTime(float *milliseconds, void *from, void *to) { *milliseconds = 1; return 0; }
int cudaFuncGetAttributes(struct cudaFuncAttributes *about, const void *kernel) {
    memset(about, 0, sizeof *about);
    about->maxThreadsPerBlock = THREADS;
    about->ptxVersion = about->binaryVersion = 90;
    return 0;
}
int cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks, const void *k, int n, size_t m, unsigned flags) {
    *blocks = 2;
    return 0;
}
int __cudaGetKernel(void **kernel, const void *function) { return give(kernel); }
int cudaGetDriverEntryPointByVersion(const char *name, void **entry, unsigned version, unsigned long long f, int *found) {
    *entry = (void *)do_nothing;
    *found = 0;
    return 0;
}
const char *cudaGetErrorName(int error) { return "none"; }
const char *cudaGetErrorString(int error) { return "none"; }

/* the driver, which Triton and torch's compiler ask */
int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *active) { *flags = 0; *active = 1; return 0; }
int cuDevicePrimaryCtxRetain(void **context, int device) { return give(context); }
int cuCtxGetCurrent(void **context) { return give(context); }
int cuDeviceGet(int *device, int number) { *device = number; return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) { return cudaDeviceGetAttribute(value, attribute, device); }
int cuDeviceGetCount(int *count) { return cudaGetDeviceCount(count); }
int cuDriverGetVersion(int *version) { *version = 13000; return 0; }
int cuFuncGetAttribute(int *value, int attribute, void *kernel) { *value = attribute == 0 ? THREADS : 0; return 0; }
int cuGetErrorString(int error, const char **said) { *said = "none"; return 0; }
int cuModuleGetFunction(void **function, void *module, const char *name) { return give(function); }
int cuModuleLoadData(void **module, const void *image) { return give(module); }

/* the libraries for linear algebra */
int cublasCreate_v2(void **handle) { return give(handle); }
int cublasGetMathMode(void *handle, int *mode) { *mode = 0; return 0; }
int cublasGetPointerMode_v2(void *handle, int *mode) { *mode = 0; return 0; }
size_t cublasLtGetVersion(void) { return 130000; }
int cublasLtMatmulAlgoGetHeuristic(void *h, void *o, void *a, void *b, void *c, void *d, void *p, int n, void *r, int *found) {
    *found = 1;
    return 0;
}
int cusolverDnCreate(void **handle) { return give(handle); }

/* NCCL: the other ranks have what this one has */
static int ranks = 1;
static size_t bytes(size_t count, int type) {
    static const int sizes[] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2, 1, 1};
    return count * sizes[type];
}
static int join(void **comm, int count) { ranks = count; return give(comm); }
int ncclCommInitRank(void **comm, int count, struct { char id[128]; } id, int rank) { return join(comm, count); }
int ncclCommInitRankConfig(void **comm, int count, struct { char id[128]; } id, int rank, void *config) {
    return join(comm, count);
}
int ncclCommSplit(void *comm, int color, int key, void **part, void *config) { return give(part); }
int ncclCommGetAsyncError(void *comm, int *error) { *error = 0; return 0; }
int ncclAllGather(const void *from, char *to, size_t count, int type, void *comm, void *stream) {
    for (int rank = 0; rank < ranks; rank++) memmove(to + rank * bytes(count, type), from, bytes(count, type));
    return 0;
}
int ncclAllReduce(const void *from, void *to, size_t count, int type, int how, void *comm, void *stream) {
    memmove(to, from, bytes(count, type));
    return 0;
}
const char *ncclGetErrorString(int error) { return "none"; }
const char *ncclGetLastError(void *comm) { return "none"; }
