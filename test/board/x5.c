/*
 * A stand-in for the D-Robotics libdnn.so (DNN 1.x, RDK X3/X5), just large enough for the
 * Python binding pyeasy_dnn.so to load a model and run it; models are described in sim.h.
 * `fail` knows infer, wait, release, alloc_in, alloc_out, names, handle.
 */
#include "sim.h"

typedef struct { int32_t dimensionSize[8]; int32_t numDimensions; } Shape;
typedef struct { int32_t shiftLen; uint8_t *shiftData; } Shift;
typedef struct { int32_t scaleLen; float *scaleData; int32_t zeroPointLen; int8_t *zeroPointData; } Scale;
typedef struct {
  Shape validShape, alignedShape;
  int32_t tensorLayout, tensorType;
  Shift shift;
  Scale scale;
  int32_t quantiType, quantizeAxis, alignedByteSize, stride[8];
} Props;
typedef struct { uint64_t phyAddr; void *virAddr; uint32_t memSize; } Mem;
typedef struct { Mem sysMem[4]; Props properties; } Tensor;
typedef struct {
  int32_t bpuCoreId, dspCoreId, priority, more;
  int64_t customId;
  int32_t reserved1, reserved2;
} Ctrl;
_Static_assert(sizeof(Mem) == 24, "hbSysMem");
_Static_assert(sizeof(Props) == 176, "hbDNNTensorProperties");
_Static_assert(sizeof(Tensor) == 272, "hbDNNTensor");
typedef struct { Model *m; Tensor *out; Tensor in[MAXT]; } Task;

static long live_task, live_model;
static Model *loading; /* the model whose tensors are being allocated: for fail alloc_* */
static int allocs_since_load;

static void fill(Props *p, Port *port) {
  memset(p, 0, sizeof *p);
  p->validShape.numDimensions = p->alignedShape.numDimensions = port->ndim;
  memcpy(p->validShape.dimensionSize, port->valid, sizeof port->valid);
  memcpy(p->alignedShape.dimensionSize, port->aligned, sizeof port->aligned);
  for (int i = 0; i < port->ndim; i++) p->stride[i] = (int32_t)port->stride[i];
  p->tensorLayout = port->layout;
  p->tensorType = port->type;
  p->alignedByteSize = (int32_t)port->bytes;
  if (port->n_scale) {
    p->scale.scaleLen = port->n_scale;
    p->scale.scaleData = port->scale;
    p->quantiType = 2; /* SCALE */
    p->quantizeAxis = 1;
  }
}

static void report(void) { LOG("at exit: %ld memories, %ld tasks, %ld models still held", live_mem, live_task, live_model); }

int32_t hbDNNInitializeFromFiles(void **packed, const char **files, int32_t count) {
  static int once;
  if (!once++) atexit(report);
  if (!packed || !files || count < 1) return -6000001;
  FILE *f = fopen(files[0], "r");
  if (!f) { LOG("InitializeFromFiles %s: cannot open", files[0]); return -6000006; }
  Model *m = read_model(f);
  fclose(f);
  if (!m) { LOG("InitializeFromFiles %s: not a model", files[0]); return -6000002; }
  live_model++;
  loading = m; allocs_since_load = 0;
  *packed = m;
  LOG("InitializeFromFiles %s -> model %s", files[0], m->name);
  return 0;
}
int32_t hbDNNRelease(void *packed) { (void)packed; live_model--; return 0; }
int32_t hbDNNGetModelNameList(const char ***list, int32_t *n, void *packed) {
  static const char *names[1];
  Model *m = packed; if (fails(m, "names")) return m->fail_code;
  names[0] = m->name; *list = names; *n = 1; return 0;
}
int32_t hbDNNGetModelHandle(void **h, void *packed, const char *name) {
  Model *m = packed; if (fails(m, "handle")) return m->fail_code;
  if (strcmp(name, m->name)) return -6000001;
  *h = m; return 0;
}
int32_t hbDNNGetInputCount(int32_t *n, void *h) { *n = ((Model *)h)->nin; return 0; }
int32_t hbDNNGetOutputCount(int32_t *n, void *h) { *n = ((Model *)h)->nout; return 0; }
int32_t hbDNNGetInputName(const char **n, void *h, int32_t i) { *n = ((Model *)h)->in[i].name; return 0; }
int32_t hbDNNGetOutputName(const char **n, void *h, int32_t i) { *n = ((Model *)h)->out[i].name; return 0; }
int32_t hbDNNGetInputTensorProperties(Props *p, void *h, int32_t i) { fill(p, &((Model *)h)->in[i]); return 0; }
int32_t hbDNNGetOutputTensorProperties(Props *p, void *h, int32_t i) { fill(p, &((Model *)h)->out[i]); return 0; }

#define MAXMEM 65536
static void *held[MAXMEM]; /* what is allocated now: the binding also frees what it never got */
static int held_slot(void *p) { for (int i = 0; i < MAXMEM; i++) if (held[i] == p) return i; return -1; }
int32_t hbSysAllocCachedMem(Mem *m, uint32_t size) {
  allocs_since_load++;
  if (loading && ((allocs_since_load <= loading->nin && fails(loading, "alloc_in")) ||
                  (allocs_since_load > loading->nin && fails(loading, "alloc_out")))) return loading->fail_code;
  m->virAddr = allocate(size, 0);
  if (!m->virAddr) return -6000130;
  m->memSize = size; m->phyAddr = 0x40000000u + (uint64_t)live_mem * 0x100000u;
  int slot = held_slot(NULL);
  if (slot >= 0) held[slot] = m->virAddr;
  LOG("AllocCachedMem %u", size);
  return 0;
}
int32_t hbSysFlushMem(Mem *m, int32_t flag) { LOG("FlushMem %u flag %d", m->memSize, flag); return 0; }
int32_t hbSysFreeMem(Mem *m) {
  int slot = m->virAddr ? held_slot(m->virAddr) : -1;
  if (slot < 0) { fprintf(stderr, "[bpusim] FreeMem of memory that was never allocated\n"); return -6000129; }
  held[slot] = NULL;
  LOG("FreeMem %u", m->memSize);
  release(m->virAddr);
  return 0;
}

int32_t hbDNNInfer(void **task, Tensor **output, const Tensor *input, void *h, Ctrl *c) {
  Model *m = h;
  LOG("Infer %s core %d priority %d", m->name, c->bpuCoreId, c->priority);
  if (*task != NULL) return -6000001; /* the header asks for a null handle */
  if (c->bpuCoreId < 0 || c->bpuCoreId > 2 || c->priority < 0 || c->priority > 255) { LOG("Infer: bad core or priority"); return -6000001; }
  if (fails(m, "infer")) return m->fail_code;
  Task *t = calloc(1, sizeof *t);
  t->m = m; t->out = *output;
  memcpy(t->in, input, sizeof(Tensor) * (size_t)m->nin);
  *task = t; live_task++;
  return 0;
}
int32_t hbDNNWaitTaskDone(void *task, int32_t timeout) {
  Task *t = task; (void)timeout;
  char *in[MAXT], *in_uv[MAXT], *out[MAXT];
  if (fails(t->m, "wait")) return t->m->fail_code;
  for (int i = 0; i < t->m->nin; i++) { in[i] = t->in[i].sysMem[0].virAddr; in_uv[i] = t->in[i].sysMem[1].virAddr; }
  for (int o = 0; o < t->m->nout; o++) out[o] = t->out[o].sysMem[0].virAddr;
  return compute(t->m, in, in_uv, out);
}
int32_t hbDNNReleaseTask(void *task) {
  Task *t = task; Model *m = t->m;
  if (fails(m, "release")) return m->fail_code;
  free(t); live_task--;
  return 0;
}
