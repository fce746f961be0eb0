/*
 * A stand-in for the D-Robotics libdnn.so (DNN 1.x, RDK X3/X5), just large enough for the
 * Python binding pyeasy_dnn.so to load a "model" and run it. There is no BPU here: a model
 * file is a small text file, and inference is a fixed formula, so that a test can compute the
 * right answer itself, or the work of a helper on the host.
 *
 * Model file, one item a line ('#' starts a comment):
 *   BPUSIM 1
 *   model NAME
 *   input  NAME TYPE LAYOUT valid=1,3,8,8 [aligned=1,3,8,16] [scale=0.5,0.25,...]
 *   output NAME TYPE LAYOUT valid=1,4,6,1 [aligned=1,4,6,4]  [scale=...]
 *   sleep_ms 1000          every inference takes this long (in hbDNNWaitTaskDone)
 *   fail infer|wait|release|alloc_in|alloc_out|names|handle  [CODE]
 *   crash                  every inference is a segmentation fault
 *   nan                    the first number of every output is NaN
 *   while PATH             sleep_ms, fail infer and wait, crash and nan only while this file exists
 *   socket PATH            the first output's numbers come from a helper that listens there: it
 *                          gets the first input's bytes and sends back the output's
 * TYPE is one of y nv12 nv12_separate yuv444 rgb bgr s4 u4 s8 u8 f16 s16 u16 f32 s32 u32
 * f64 s64 u64, or a number. LAYOUT is nhwc, nchw, none or a number.
 *
 * Inference: x is the valid part of all inputs, one after another, as numbers. Output o,
 * element k (counted over the valid shape, last axis fastest) is
 *     y[k] = 100*o + k/2 + sum_j x[j] * (((j % 97) * (k + 1)) % 5 - 2)
 * stored at the place that alignedShape gives it; padding elements are -999 (0x7f for bytes).
 *
 * Environment: BPUSIM_LOG=1 writes one line per call to stderr.
 *              BPUSIM_KEEP=1 keeps freed memory mapped and fills it with 0xDD
 *              (else it is unmapped, as the board's allocator does).
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define MAXD 8
typedef struct { int32_t dimensionSize[MAXD]; int32_t numDimensions; } Shape;
typedef struct { int32_t shiftLen; uint8_t *shiftData; } Shift;
typedef struct { int32_t scaleLen; float *scaleData; int32_t zeroPointLen; int8_t *zeroPointData; } Scale;
typedef struct {
  Shape validShape, alignedShape;
  int32_t tensorLayout, tensorType;
  Shift shift;
  Scale scale;
  int32_t quantiType, quantizeAxis, alignedByteSize, stride[MAXD];
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

enum { T_Y, T_NV12, T_NV12S, T_YUV444, T_RGB, T_BGR, T_S4, T_U4, T_S8, T_U8, T_F16, T_S16, T_U16,
       T_F32, T_S32, T_U32, T_F64, T_S64, T_U64 };
static const char *TYPES[] = {"y", "nv12", "nv12_separate", "yuv444", "rgb", "bgr", "s4", "u4", "s8",
  "u8", "f16", "s16", "u16", "f32", "s32", "u32", "f64", "s64", "u64"};
static const int TSIZE[] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 4, 4, 4, 8, 8, 8};

#define MAXT 16
typedef struct {
  char *name;
  char *iname[MAXT], *oname[MAXT];
  Props in[MAXT], out[MAXT];
  int nin, nout, sleep_ms, crash, nan;
  char *socket, *only_while;
  char fail[32];
  int fail_code;
  const char *names[1];
} Model;
typedef struct { Model *m; Tensor *out; Tensor in[MAXT]; } Task;

static int log_on(void) { static int v = -1; if (v < 0) v = getenv("BPUSIM_LOG") != NULL; return v; }
#define LOG(...) do { if (log_on()) { fprintf(stderr, "[bpusim] " __VA_ARGS__); fputc('\n', stderr); } } while (0)
static long live_mem, live_task, live_model;
static Model *loading; /* the model whose tensors are being allocated: for fail alloc_* */
static int allocs_since_load;

static int fails(Model *m, const char *what) { return m && strcmp(m->fail, what) == 0 ? m->fail_code : 0; }

static int faulty(Model *m) { return !m->only_while || access(m->only_while, F_OK) == 0; }

static int parse_shape(const char *s, Shape *sh) {
  memset(sh, 0, sizeof *sh);
  while (*s && sh->numDimensions < MAXD) {
    char *e;
    sh->dimensionSize[sh->numDimensions++] = (int32_t)strtol(s, &e, 10);
    if (e == s) return -1;
    s = *e == ',' ? e + 1 : e;
  }
  return 0;
}
static int type_size(int t) { return t >= 0 && t <= T_U64 ? TSIZE[t] : 1; }

static int parse_tensor(char *save, char **name, Props *p) {
  memset(p, 0, sizeof *p);
  char *n = strtok_r(NULL, " \t", &save), *t = strtok_r(NULL, " \t", &save), *l = strtok_r(NULL, " \t", &save), *kv;
  if (!n || !t || !l) return -1;
  *name = strdup(n);
  p->tensorType = atoi(t);
  for (int i = 0; i <= T_U64; i++) if (!strcasecmp(t, TYPES[i])) p->tensorType = i;
  p->tensorLayout = !strcasecmp(l, "nhwc") ? 0 : !strcasecmp(l, "nchw") ? 2 : !strcasecmp(l, "none") ? 255 : atoi(l);
  int have_aligned = 0;
  while ((kv = strtok_r(NULL, " \t", &save))) {
    if (!strncmp(kv, "valid=", 6)) { if (parse_shape(kv + 6, &p->validShape)) return -1; }
    else if (!strncmp(kv, "aligned=", 8)) { if (parse_shape(kv + 8, &p->alignedShape)) return -1; have_aligned = 1; }
    else if (!strncmp(kv, "scale=", 6)) {
      char *s = kv + 6, *e;
      p->scale.scaleData = calloc(64, sizeof(float));
      while (*s && p->scale.scaleLen < 64) {
        p->scale.scaleData[p->scale.scaleLen++] = strtof(s, &e);
        if (e == s) return -1;
        s = *e == ',' ? e + 1 : e;
      }
      p->quantiType = 2; /* SCALE */
      p->quantizeAxis = 1;
    } else return -1;
  }
  if (!have_aligned) p->alignedShape = p->validShape;
  int64_t st = type_size(p->tensorType);
  for (int i = p->alignedShape.numDimensions - 1; i >= 0; i--) { p->stride[i] = (int32_t)st; st *= p->alignedShape.dimensionSize[i]; }
  if (p->tensorType == T_NV12 || p->tensorType == T_NV12S) st = st / 2; /* 3 planes -> 1.5 */
  p->alignedByteSize = (int32_t)st;
  return 0;
}

static void report(void) { if (log_on()) fprintf(stderr, "[bpusim] at exit: %ld memories, %ld tasks, %ld models still held\n", live_mem, live_task, live_model); }

int32_t hbDNNInitializeFromFiles(void **packed, const char **files, int32_t count) {
  static int once;
  if (!once++) atexit(report);
  if (!packed || !files || count < 1) return -6000001;
  FILE *f = fopen(files[0], "r");
  if (!f) { LOG("InitializeFromFiles %s: cannot open", files[0]); return -6000006; }
  char line[4096];
  Model *m = calloc(1, sizeof *m);
  int ok = 0, bad = 0;
  while (!bad && fgets(line, sizeof line, f)) {
    line[strcspn(line, "#\r\n")] = 0;
    char *save, *k = strtok_r(line, " \t", &save);
    if (!k) continue;
    if (!strcmp(k, "BPUSIM")) ok = 1;
    else if (!ok) bad = 1;
    else if (!strcmp(k, "model")) { char *n = strtok_r(NULL, " \t", &save); m->name = strdup(n ? n : ""); }
    else if (!strcmp(k, "input") && m->nin < MAXT) { bad = parse_tensor(save, &m->iname[m->nin], &m->in[m->nin]); m->nin++; }
    else if (!strcmp(k, "output") && m->nout < MAXT) { bad = parse_tensor(save, &m->oname[m->nout], &m->out[m->nout]); m->nout++; }
    else if (!strcmp(k, "sleep_ms")) { char *n = strtok_r(NULL, " \t", &save); m->sleep_ms = n ? atoi(n) : 0; }
    else if (!strcmp(k, "while")) { char *n = strtok_r(NULL, " \t", &save); m->only_while = strdup(n ? n : ""); }
    else if (!strcmp(k, "crash")) m->crash = 1;
    else if (!strcmp(k, "nan")) m->nan = 1;
    else if (!strcmp(k, "socket")) { char *n = strtok_r(NULL, " \t", &save); m->socket = strdup(n ? n : ""); }
    else if (!strcmp(k, "fail")) {
      char *w = strtok_r(NULL, " \t", &save), *c = strtok_r(NULL, " \t", &save);
      snprintf(m->fail, sizeof m->fail, "%s", w ? w : "");
      m->fail_code = c ? atoi(c) : -6000012;
    } else bad = 1;
  }
  fclose(f);
  if (bad || !ok || !m->name || !m->nin || !m->nout) { LOG("InitializeFromFiles %s: not a model", files[0]); free(m); return -6000002; }
  m->names[0] = m->name;
  live_model++;
  loading = m; allocs_since_load = 0;
  *packed = m;
  LOG("InitializeFromFiles %s -> model %s", files[0], m->name);
  return 0;
}
int32_t hbDNNRelease(void *packed) { (void)packed; live_model--; return 0; }
int32_t hbDNNGetModelNameList(const char ***list, int32_t *n, void *packed) {
  Model *m = packed; if (fails(m, "names")) return m->fail_code;
  *list = m->names; *n = 1; return 0;
}
int32_t hbDNNGetModelHandle(void **h, void *packed, const char *name) {
  Model *m = packed; if (fails(m, "handle")) return m->fail_code;
  if (strcmp(name, m->name)) return -6000001;
  *h = m; return 0;
}
int32_t hbDNNGetInputCount(int32_t *n, void *h) { *n = ((Model *)h)->nin; return 0; }
int32_t hbDNNGetOutputCount(int32_t *n, void *h) { *n = ((Model *)h)->nout; return 0; }
int32_t hbDNNGetInputName(const char **n, void *h, int32_t i) { *n = ((Model *)h)->iname[i]; return 0; }
int32_t hbDNNGetOutputName(const char **n, void *h, int32_t i) { *n = ((Model *)h)->oname[i]; return 0; }
int32_t hbDNNGetInputTensorProperties(Props *p, void *h, int32_t i) { *p = ((Model *)h)->in[i]; return 0; }
int32_t hbDNNGetOutputTensorProperties(Props *p, void *h, int32_t i) { *p = ((Model *)h)->out[i]; return 0; }

/* memory: one page of header, the bytes, then 64 KiB of canary, so that an overrun is seen */
#define HDR 4096u
#define TAIL 65536u
typedef struct { uint64_t magic; uint32_t size; size_t total; } Hdr;
static Hdr *hdr_of(const Mem *m) { return (Hdr *)((char *)m->virAddr - HDR); }
static void check_tail(const Mem *m, const char *when) {
  Hdr *h = hdr_of(m);
  unsigned char *t = (unsigned char *)m->virAddr + h->size;
  uint32_t n = 0;
  for (uint32_t i = 0; i < TAIL; i++) if (t[i] != 0xC5) n = i + 1;
  if (n) fprintf(stderr, "[bpusim] OVERRUN (%s): %u bytes written past a buffer of %u\n", when, n, h->size);
}
#define MAXMEM 65536
static void *held[MAXMEM]; /* what is allocated now: the binding also frees what it never got */
static int held_slot(void *p) { for (int i = 0; i < MAXMEM; i++) if (held[i] == p) return i; return -1; }
int32_t hbSysAllocCachedMem(Mem *m, uint32_t size) {
  allocs_since_load++;
  if (loading && ((allocs_since_load <= loading->nin && fails(loading, "alloc_in")) ||
                  (allocs_since_load > loading->nin && fails(loading, "alloc_out")))) return loading->fail_code;
  size_t total = HDR + ((size_t)size + TAIL + 4095) / 4096 * 4096;
  char *p = mmap(NULL, total, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) return -6000130;
  Hdr *h = (Hdr *)p; h->magic = 0xB9051u; h->size = size; h->total = total;
  m->virAddr = p + HDR; m->memSize = size; m->phyAddr = 0x40000000u + (uint64_t)live_mem * 0x100000u;
  memset(m->virAddr, 0, size);
  memset(p + HDR + size, 0xC5, TAIL);
  int slot = held_slot(NULL);
  if (slot >= 0) held[slot] = m->virAddr;
  live_mem++;
  LOG("AllocCachedMem %u", size);
  return 0;
}
int32_t hbSysFlushMem(Mem *m, int32_t flag) { LOG("FlushMem %u flag %d", m->memSize, flag); return 0; }
int32_t hbSysFreeMem(Mem *m) {
  int slot = m->virAddr ? held_slot(m->virAddr) : -1;
  if (slot < 0) { fprintf(stderr, "[bpusim] FreeMem of memory that was never allocated\n"); return -6000129; }
  held[slot] = NULL;
  LOG("FreeMem %u", m->memSize);
  check_tail(m, "free");
  Hdr *h = hdr_of(m);
  live_mem--;
  if (getenv("BPUSIM_KEEP")) memset(m->virAddr, 0xDD, h->size); else munmap(h, h->total);
  return 0;
}

static double half(uint16_t v) { __fp16 h; memcpy(&h, &v, 2); return (double)h; }
static double get(const char *p, int t) {
  switch (t) {
    case T_S8: return *(int8_t *)p;
    case T_F16: { uint16_t v; memcpy(&v, p, 2); return half(v); }
    case T_S16: { int16_t v; memcpy(&v, p, 2); return v; }
    case T_U16: { uint16_t v; memcpy(&v, p, 2); return v; }
    case T_F32: { float v; memcpy(&v, p, 4); return v; }
    case T_S32: { int32_t v; memcpy(&v, p, 4); return v; }
    case T_U32: { uint32_t v; memcpy(&v, p, 4); return v; }
    case T_F64: { double v; memcpy(&v, p, 8); return v; }
    case T_S64: { int64_t v; memcpy(&v, p, 8); return (double)v; }
    case T_U64: { uint64_t v; memcpy(&v, p, 8); return (double)v; }
    default: return *(uint8_t *)p;
  }
}
static void put(char *p, int t, double y) {
  switch (t) {
    case T_F16: { __fp16 v = (__fp16)y; memcpy(p, &v, 2); break; }
    case T_S16: { int16_t v = (int16_t)y; memcpy(p, &v, 2); break; }
    case T_U16: { uint16_t v = (uint16_t)(int32_t)y; memcpy(p, &v, 2); break; }
    case T_F32: { float v = (float)y; memcpy(p, &v, 4); break; }
    case T_S32: { int32_t v = (int32_t)y; memcpy(p, &v, 4); break; }
    case T_U32: { uint32_t v = (uint32_t)(int64_t)y; memcpy(p, &v, 4); break; }
    case T_F64: memcpy(p, &y, 8); break;
    case T_S64: { int64_t v = (int64_t)y; memcpy(p, &v, 8); break; }
    case T_U64: { uint64_t v = (uint64_t)(int64_t)y; memcpy(p, &v, 8); break; }
    default: *p = (char)(int32_t)y;
  }
}
/* byte offset of valid element k in memory laid out as alignedShape */
static int64_t offset_of(const Props *p, int64_t k) {
  int64_t off = 0, st = type_size(p->tensorType);
  for (int i = p->validShape.numDimensions - 1; i >= 0; i--) {
    int64_t d = p->validShape.dimensionSize[i], c = k % d;
    k /= d; off += c * st; st *= p->alignedShape.dimensionSize[i];
  }
  return off;
}
static int64_t count_of(const Shape *s) { int64_t n = 1; for (int i = 0; i < s->numDimensions; i++) n *= s->dimensionSize[i]; return n; }
static int64_t input_count(const Props *p) { int64_t n = count_of(&p->validShape); return p->tensorType == T_NV12 || p->tensorType == T_NV12S ? n / 2 : n; }

static int transfer(int fd, char *p, int64_t n, int sending) {
  while (n > 0) {
    ssize_t k = sending ? write(fd, p, (size_t)n) : read(fd, p, (size_t)n);
    if (k <= 0) return -1;
    p += k; n -= k;
  }
  return 0;
}
/* the work of the helper: dense input bytes out, dense output bytes in */
static int ask_helper(const char *path, char *in, int64_t n_in, char *out, int64_t n_out) {
  struct sockaddr_un a = {.sun_family = AF_UNIX};
  int fd = socket(AF_UNIX, SOCK_STREAM, 0), bad;
  snprintf(a.sun_path, sizeof a.sun_path, "%s", path);
  bad = fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof a) || transfer(fd, in, n_in, 1) || transfer(fd, out, n_out, 0);
  if (fd >= 0) close(fd);
  return bad ? -6000013 : 0;
}

static void shape_str(const Shape *s, char *b) {
  *b = 0; for (int i = 0; i < s->numDimensions; i++) b += sprintf(b, i ? "x%d" : "%d", s->dimensionSize[i]);
}

int32_t hbDNNInfer(void **task, Tensor **output, const Tensor *input, void *h, Ctrl *c) {
  Model *m = h;
  char a[128], b[128];
  for (int i = 0; i < m->nin; i++) {
    shape_str(&input[i].properties.validShape, a); shape_str(&input[i].properties.alignedShape, b);
    LOG("Infer %s core %d priority %d input %d type %d valid %s aligned %s", m->name, c->bpuCoreId, c->priority, i, input[i].properties.tensorType, a, b);
    check_tail(&input[i].sysMem[0], "infer input");
  }
  if (*task != NULL) return -6000001; /* the header asks for a null handle */
  if (c->bpuCoreId < 0 || c->bpuCoreId > 2 || c->priority < 0 || c->priority > 255) { LOG("Infer: bad core or priority"); return -6000001; }
  if (faulty(m) && fails(m, "infer")) return m->fail_code;
  Task *t = calloc(1, sizeof *t);
  t->m = m; t->out = *output;
  memcpy(t->in, input, sizeof(Tensor) * (size_t)m->nin);
  *task = t; live_task++;
  return 0;
}
int32_t hbDNNWaitTaskDone(void *task, int32_t timeout) {
  Task *t = task; Model *m = t->m; (void)timeout;
  int bad = faulty(m);
  if (bad && m->crash) raise(SIGSEGV);
  if (bad && m->sleep_ms) { struct timespec ts = {m->sleep_ms / 1000, (m->sleep_ms % 1000) * 1000000L}; nanosleep(&ts, NULL); }
  if (bad && fails(m, "wait")) return m->fail_code;
  if (m->socket) {
    const Props *p = &t->in[0].properties, *q = &t->out[0].properties;
    return ask_helper(m->socket, t->in[0].sysMem[0].virAddr, input_count(p) * type_size(p->tensorType),
                      t->out[0].sysMem[0].virAddr, count_of(&q->validShape) * type_size(q->tensorType));
  }
  int64_t total = 0, pos = 0;
  for (int i = 0; i < m->nin; i++) total += input_count(&t->in[i].properties);
  double *x = malloc(sizeof(double) * (size_t)total);
  for (int i = 0; i < m->nin; i++) {
    const Props *p = &t->in[i].properties;
    int64_t n = input_count(p), y_n = n * 2 / 3;
    for (int64_t k = 0; k < n; k++) {
      const char *v = t->in[i].sysMem[0].virAddr;
      if (p->tensorType == T_NV12S && k >= y_n) x[pos++] = (uint8_t)((char *)t->in[i].sysMem[1].virAddr)[k - y_n];
      else if (p->tensorType == T_NV12 || p->tensorType == T_NV12S) x[pos++] = (uint8_t)v[k];
      else x[pos++] = get(v + offset_of(p, k), p->tensorType);
    }
  }
  for (int o = 0; o < m->nout; o++) {
    const Props *p = &t->out[o].properties;
    char *v = t->out[o].sysMem[0].virAddr;
    int64_t n = count_of(&p->validShape), all = count_of(&p->alignedShape), es = type_size(p->tensorType);
    for (int64_t k = 0; k < all; k++) put(v + k * es, p->tensorType, es == 1 ? 127 : -999);
    for (int64_t k = 0; k < n; k++) {
      double y = 100.0 * o + k / 2.0;
      for (int64_t j = 0; j < total; j++) y += x[j] * (double)(((j % 97) * (k + 1)) % 5 - 2);
      put(v + offset_of(p, k), p->tensorType, y);
    }
    if (bad && m->nan) put(v, p->tensorType, strtod("nan", NULL));
    check_tail(&t->out[o].sysMem[0], "infer output");
  }
  free(x);
  return 0;
}
int32_t hbDNNReleaseTask(void *task) {
  Task *t = task; Model *m = t->m;
  if (fails(m, "release")) return m->fail_code;
  free(t); live_task--;
  return 0;
}
