/*
 * A stand-in for libdnn.so and libhbucp.so of the RDK S100, just large enough for the Python
 * binding hbm_runtime to load a model and run it; models are described in sim.h. `fail` knows the
 * functions of this file by their names without hbDNN and hbUCP.
 */
#include "sim.h"

typedef struct { int32_t size[10]; int32_t n; } Shape;
typedef struct { int32_t n_scale; float *scale; int32_t n_zero; int32_t *zero; } Scale;
typedef struct {
  Shape shape;
  int32_t type;
  Scale scale;
  int32_t quanti, axis;
  int64_t bytes, stride[10];
} Props;
typedef struct { uint64_t phys; void *addr; uint64_t size; } Mem;
typedef struct { Mem mem; Props props; } Tensor;
typedef struct { int32_t priority; int64_t custom; uint64_t backend; uint32_t device; } Sched;
_Static_assert(sizeof(Props) == 176, "hbDNNTensorProperties");
typedef struct { Model *m; const Tensor *in; Tensor *out; } Task;

static Model *loaded; /* for the calls that are told no model */
static long live_task;

static int failing(const Model *m, const char *call) {
  int code = fails(m, call);
  LOG("%s%s", call, code ? " fails" : "");
  return code;
}
#define CALL(m, call) do { int code = failing(m, call); if (code) return code; } while (0)

static void fill(Props *p, Port *port) {
  memset(p, 0, sizeof *p);
  p->shape.n = port->ndim;
  for (int i = 0; i < port->ndim; i++) { p->shape.size[i] = port->valid[i]; p->stride[i] = port->stride[i]; }
  p->type = port->type - T_S4;
  p->bytes = port->bytes;
  if (port->n_scale) {
    p->quanti = 1; /* SCALE */
    p->axis = port->axis;
    p->scale = (Scale){port->n_scale, port->scale, port->n_zero, port->zero};
  }
}

int hbDNNInitializeFromFiles(void **packed, const char **files, int n) {
  (void)n;
  FILE *f = fopen(files[0], "r");
  if (!f) return -6000006;
  Model *m = read_model(f);
  fclose(f);
  if (!m) return -6000001;
  CALL(m, "InitializeFromFiles");
  *packed = loaded = m;
  return 0;
}
int hbDNNRelease(void *packed) { failing(packed, "Release"); return 0; }
int hbDNNGetModelNameList(const char ***names, int32_t *n, void *packed) {
  static const char *list[1];
  CALL(packed, "GetModelNameList");
  list[0] = ((Model *)packed)->name; *names = list; *n = 1;
  return 0;
}
int hbDNNGetModelHandle(void **h, void *packed, const char *name) { (void)name; CALL(packed, "GetModelHandle"); *h = packed; return 0; }
int hbDNNGetInputCount(int32_t *n, void *h) { CALL(h, "GetInputCount"); *n = ((Model *)h)->nin; return 0; }
int hbDNNGetOutputCount(int32_t *n, void *h) { CALL(h, "GetOutputCount"); *n = ((Model *)h)->nout; return 0; }
int hbDNNGetInputName(const char **s, void *h, int i) { CALL(h, "GetInputName"); *s = ((Model *)h)->in[i].name; return 0; }
int hbDNNGetOutputName(const char **s, void *h, int i) { CALL(h, "GetOutputName"); *s = ((Model *)h)->out[i].name; return 0; }
int hbDNNGetInputTensorProperties(Props *p, void *h, int i) { CALL(h, "GetInputTensorProperties"); fill(p, &((Model *)h)->in[i]); return 0; }
int hbDNNGetOutputTensorProperties(Props *p, void *h, int i) { CALL(h, "GetOutputTensorProperties"); fill(p, &((Model *)h)->out[i]); return 0; }
static int describe(const char **s, uint32_t *n, int32_t *type) { *s = "simulated"; *n = 9; *type = 1; return 0; }
int hbDNNGetInputDesc(const char **s, uint32_t *n, int32_t *t, void *h, int i) { (void)i; CALL(h, "GetInputDesc"); return describe(s, n, t); }
int hbDNNGetOutputDesc(const char **s, uint32_t *n, int32_t *t, void *h, int i) { (void)i; CALL(h, "GetOutputDesc"); return describe(s, n, t); }
int hbDNNGetModelDesc(const char **s, uint32_t *n, int32_t *t, void *h) { CALL(h, "GetModelDesc"); return describe(s, n, t); }
int hbDNNGetHBMDesc(const char **s, uint32_t *n, int32_t *t, void *h, int i) { (void)i; CALL(h, "GetHBMDesc"); return describe(s, n, t); }
const char *hbDNNGetVersion(void) { return "simulated"; }
const char *hbDNNGetErrorDesc(int code) { (void)code; return "simulated error"; }
const char *hbUCPGetErrorDesc(int code) { (void)code; return "simulated error"; }

int hbUCPMallocCached(Mem *m, uint64_t size, int32_t device) {
  (void)device;
  CALL(loaded, "MallocCached");
  m->addr = allocate(size, 0x7f);
  m->size = size; m->phys = 1;
  return m->addr ? 0 : -1;
}
int hbUCPFree(Mem *m) { failing(loaded, "Free"); release(m->addr); return 0; }
int hbUCPMemFlush(Mem *m, int flag) { (void)m; (void)flag; CALL(loaded, "MemFlush"); return 0; }

int hbDNNInferV2(void **task, Tensor *out, const Tensor *in, void *h) {
  CALL(h, "InferV2");
  Task *t = malloc(sizeof *t);
  *t = (Task){h, in, out};
  *task = t;
  live_task++;
  return 0;
}
int hbUCPSubmitTask(void *task, Sched *s) {
  CALL(((Task *)task)->m, "SubmitTask");
  LOG("priority %d cores 0x%llx", s->priority, (unsigned long long)s->backend);
  return 0;
}
int hbUCPWaitTaskDone(void *task, int32_t ms) {
  Task *t = task; (void)ms;
  char *in[MAXT], *out[MAXT];
  CALL(t->m, "WaitTaskDone");
  for (int i = 0; i < t->m->nin; i++) in[i] = t->in[i].mem.addr;
  for (int o = 0; o < t->m->nout; o++) out[o] = t->out[o].mem.addr;
  return compute(t->m, in, in, out);
}
int hbUCPReleaseTask(void *task) {
  failing(((Task *)task)->m, "ReleaseTask");
  free(task);
  live_task--;
  LOG("%ld memories, %ld tasks held", live_mem, live_task);
  return 0;
}
int hbDNNGetTaskOutputTensorProperties(Props *p, void *task, int sub, int i) {
  (void)sub;
  Model *m = ((Task *)task)->m;
  CALL(m, "GetTaskOutputTensorProperties");
  fill(p, &m->out[i]);
  return 0;
}
