/*
 * What the simulated BPUs of both boards have in common. There is no BPU here: a model file is a
 * small text file, and inference is a fixed formula, so that a test can compute the right answer
 * itself, or the work of a helper on the host.
 *
 * Model file, one item a line ('#' starts a comment):
 *   BPUSIM 1
 *   model NAME
 *   input  NAME TYPE [LAYOUT] valid=1,3,8,8 [aligned=1,3,8,16 | stride=1024,256,32,4] [SCALES]
 *   output NAME TYPE [LAYOUT] valid=1,4,6,1 [aligned=1,4,6,4  | stride=...] [SCALES]
 *   sleep_ms 1000          every inference takes this long
 *   fail WHAT [CODE]       this call of the library fails; the names are those of each board
 *   crash                  every inference is a segmentation fault
 *   nan                    the first number of every output is NaN
 *   while PATH             all of these faults only while this file exists
 *   log PATH               every inference writes a line there when it begins and when it ends
 *   socket PATH            the first output's numbers come from a helper that listens there: it
 *                          gets the first input's bytes and sends back the output's, unpadded
 * TYPE is one of y nv12 nv12_separate yuv444 rgb bgr s4 u4 s8 u8 f16 s16 u16 f32 s32 u32 f64 s64
 * u64, or a number. LAYOUT is nhwc, nchw, none or a number. Strides count bytes. SCALES are
 * scale=0.5,0.25,... zero=1,2,... axis=1.
 *
 * Inference: x is the valid part of all inputs, one after another, as numbers. Output o,
 * element k (counted over the valid shape, last axis fastest) is
 *     y[k] = 100*o + k/2 + sum_j x[j] * (((j % 97) * (k + 1)) % 5 - 2)
 * stored at the place that its strides give it; what lies between is -999 (0x7f for bytes).
 *
 * Environment: BPUSIM_LOG=1 writes one line per call to stderr; BPUSIM_KEEP=1 keeps freed memory
 * mapped and fills it with 0xDD (else it is unmapped, as the board's allocator does). An overrun
 * buffer is reported in any case.
 */
#define _GNU_SOURCE
#include <fcntl.h>
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

enum { T_Y, T_NV12, T_NV12S, T_YUV444, T_RGB, T_BGR, T_S4, T_U4, T_S8, T_U8, T_F16, T_S16, T_U16,
       T_F32, T_S32, T_U32, T_F64, T_S64, T_U64 };
static const char *TYPES[] = {"y", "nv12", "nv12_separate", "yuv444", "rgb", "bgr", "s4", "u4", "s8",
  "u8", "f16", "s16", "u16", "f32", "s32", "u32", "f64", "s64", "u64"};
static const int TSIZE[] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 4, 4, 4, 8, 8, 8};

#define MAXD 8
#define MAXT 16
#define MAXS 64
typedef struct {
  char *name;
  int type, layout, ndim, axis, n_scale, n_zero;
  int32_t valid[MAXD], aligned[MAXD];
  int64_t stride[MAXD], bytes;
  float scale[MAXS];
  int32_t zero[MAXS];
} Port;
typedef struct {
  char *name;
  Port in[MAXT], out[MAXT];
  int nin, nout, sleep_ms, crash, nan;
  char *socket, *only_while, *log, fail[64];
  int fail_code;
} Model;

static int log_on(void) { static int v = -1; if (v < 0) v = getenv("BPUSIM_LOG") != NULL; return v; }
#define LOG(...) do { if (log_on()) { fprintf(stderr, "[bpusim] " __VA_ARGS__); fputc('\n', stderr); } } while (0)

static int faulty(const Model *m) { return !m->only_while || access(m->only_while, F_OK) == 0; }
/* the code with which a call fails, 0 if it does not */
static int fails(const Model *m, const char *what) {
  return m && strcmp(m->fail, what) == 0 && faulty(m) ? m->fail_code : 0;
}
static void note(const Model *m, const char *line) {
  int fd = m->log ? open(m->log, O_WRONLY | O_APPEND | O_CREAT, 0600) : -1;
  if (fd < 0) return;
  if (write(fd, line, strlen(line)) < 0) LOG("cannot write to %s", m->log);
  close(fd);
}

/* -- model files --------------------------------------------------------------------------- */

static int type_size(int t) { return t >= 0 && t <= T_U64 ? TSIZE[t] : 1; }
static int64_t count_of(const Port *p) {
  int64_t n = 1;
  for (int i = 0; i < p->ndim; i++) n *= p->valid[i];
  return p->type == T_NV12 || p->type == T_NV12S ? n / 2 : n; /* 3 planes -> 1.5 */
}
/* byte offset of valid element k */
static int64_t offset_of(const Port *p, int64_t k) {
  int64_t off = 0;
  if (p->type == T_NV12) return k;
  for (int i = p->ndim - 1; i >= 0; i--) { off += (k % p->valid[i]) * p->stride[i]; k /= p->valid[i]; }
  return off;
}
static int parse_numbers(char *s, double *v, int most) {
  int n = 0;
  while (*s && n < most) {
    char *e;
    v[n++] = strtod(s, &e);
    if (e == s) return -1;
    s = *e == ',' ? e + 1 : e;
  }
  return n;
}
static int parse_port(char *save, Port *p) {
  memset(p, 0, sizeof *p);
  char *n = strtok_r(NULL, " \t", &save), *t = strtok_r(NULL, " \t", &save), *kv;
  if (!n || !t) return -1;
  p->name = strdup(n);
  p->type = atoi(t);
  p->layout = 255;
  for (int i = 0; i <= T_U64; i++) if (!strcasecmp(t, TYPES[i])) p->type = i;
  int have_stride = 0, have_aligned = 0;
  while ((kv = strtok_r(NULL, " \t", &save))) {
    double v[MAXS];
    char *eq = strchr(kv, '=');
    if (!eq) {
      p->layout = !strcasecmp(kv, "nhwc") ? 0 : !strcasecmp(kv, "nchw") ? 2 : !strcasecmp(kv, "none") ? 255 : atoi(kv);
      continue;
    }
    int c = parse_numbers(eq + 1, v, MAXS), key = eq - kv;
    if (c < 0) return -1;
#define IS(word) (key == (int)strlen(word) && !strncmp(kv, word, key))
    if (IS("valid")) { p->ndim = c; for (int i = 0; i < c && i < MAXD; i++) p->valid[i] = (int32_t)v[i]; }
    else if (IS("aligned")) { have_aligned = 1; for (int i = 0; i < c && i < MAXD; i++) p->aligned[i] = (int32_t)v[i]; }
    else if (IS("stride")) { have_stride = 1; for (int i = 0; i < c && i < MAXD; i++) p->stride[i] = (int64_t)v[i]; }
    else if (IS("scale")) { p->n_scale = c; for (int i = 0; i < c; i++) p->scale[i] = (float)v[i]; }
    else if (IS("zero")) { p->n_zero = c; for (int i = 0; i < c; i++) p->zero[i] = (int32_t)v[i]; }
    else if (IS("axis")) p->axis = (int)v[0];
    else return -1;
  }
  if (!have_aligned) memcpy(p->aligned, p->valid, sizeof p->aligned);
  int64_t st = type_size(p->type);
  for (int i = p->ndim - 1; i >= 0 && !have_stride; i--) { p->stride[i] = st; st *= p->aligned[i]; }
  p->bytes = p->ndim ? p->stride[0] * p->aligned[0] : 0;
  if (p->type == T_NV12 || p->type == T_NV12S) p->bytes = p->bytes / 2;
  return 0;
}

/* NULL if the file is none */
static Model *read_model(FILE *f) {
  char line[4096];
  Model *m = calloc(1, sizeof *m);
  int ok = 0, bad = 0;
  while (!bad && fgets(line, sizeof line, f)) {
    line[strcspn(line, "#\r\n")] = 0;
    char *save, *k = strtok_r(line, " \t", &save);
    if (!k) continue;
    if (!strcmp(k, "BPUSIM")) { ok = 1; continue; }
    if (!ok) bad = 1;
    else if (!strcmp(k, "input") && m->nin < MAXT) bad = parse_port(save, &m->in[m->nin++]);
    else if (!strcmp(k, "output") && m->nout < MAXT) bad = parse_port(save, &m->out[m->nout++]);
    else if (!strcmp(k, "crash")) m->crash = 1;
    else if (!strcmp(k, "nan")) m->nan = 1;
    else {
      char *w = strtok_r(NULL, " \t", &save), *c = strtok_r(NULL, " \t", &save);
      if (!w) w = "";
      if (!strcmp(k, "model")) m->name = strdup(w);
      else if (!strcmp(k, "sleep_ms")) m->sleep_ms = atoi(w);
      else if (!strcmp(k, "while")) m->only_while = strdup(w);
      else if (!strcmp(k, "log")) m->log = strdup(w);
      else if (!strcmp(k, "socket")) m->socket = strdup(w);
      else if (!strcmp(k, "fail")) {
        snprintf(m->fail, sizeof m->fail, "%s", w);
        m->fail_code = c ? atoi(c) : -6000012;
      } else bad = 1;
    }
  }
  if (!bad && ok && m->name && m->nin && m->nout) return m;
  free(m);
  return NULL;
}

/* -- memory: one page of header, the bytes, then 64 KiB of canary, so that an overrun is seen -- */

#define HDR 4096u
#define TAIL 65536u
typedef struct { uint64_t size; size_t total; } Hdr;
static long live_mem;
static Hdr *hdr_of(const void *p) { return (Hdr *)((char *)p - HDR); }
static void check_tail(const void *p, const char *when) {
  Hdr *h = hdr_of(p);
  const unsigned char *t = (const unsigned char *)p + h->size;
  uint32_t n = 0;
  for (uint32_t i = 0; i < TAIL; i++) if (t[i] != 0xC5) n = i + 1;
  if (n) fprintf(stderr, "[bpusim] OVERRUN (%s): %u bytes written past a buffer of %llu\n", when, n, (unsigned long long)h->size);
}
static void *allocate(uint64_t size, int fill) {
  size_t total = HDR + ((size_t)size + TAIL + 4095) / 4096 * 4096;
  char *p = mmap(NULL, total, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) return NULL;
  *(Hdr *)p = (Hdr){size, total};
  memset(p + HDR, fill, size);
  memset(p + HDR + size, 0xC5, TAIL);
  live_mem++;
  return p + HDR;
}
static void release(void *p) {
  check_tail(p, "free");
  Hdr *h = hdr_of(p);
  live_mem--;
  if (getenv("BPUSIM_KEEP")) memset(p, 0xDD, h->size); else munmap(h, h->total);
}

/* -- the work ------------------------------------------------------------------------------ */

static double get(const char *p, int t) {
  switch (t) {
    case T_S8: return *(int8_t *)p;
    case T_F16: { __fp16 v; memcpy(&v, p, 2); return (double)v; }
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

static int transfer(int fd, char *p, int64_t n, int sending) {
  while (n > 0) {
    ssize_t k = sending ? write(fd, p, (size_t)n) : read(fd, p, (size_t)n);
    if (k <= 0) return -1;
    p += k; n -= k;
  }
  return 0;
}
/* the work of the helper: dense input bytes out, dense output bytes in */
static int ask_helper(const Model *m, const char *in, char *out) {
  const Port *p = &m->in[0], *q = &m->out[0];
  int64_t n = count_of(p), n_out = count_of(q), w = type_size(p->type), w_out = type_size(q->type);
  char *x = malloc((size_t)(n * w)), *y = malloc((size_t)(n_out * w_out));
  for (int64_t k = 0; k < n; k++) memcpy(x + k * w, in + offset_of(p, k), (size_t)w);
  struct sockaddr_un a = {.sun_family = AF_UNIX};
  int fd = socket(AF_UNIX, SOCK_STREAM, 0), bad;
  snprintf(a.sun_path, sizeof a.sun_path, "%s", m->socket);
  bad = fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof a) || transfer(fd, x, n * w, 1) || transfer(fd, y, n_out * w_out, 0);
  if (fd >= 0) close(fd);
  for (int64_t k = 0; k < n_out && !bad; k++) memcpy(out + offset_of(q, k), y + k * w_out, (size_t)w_out);
  free(x); free(y);
  return bad ? -6000013 : 0;
}

/* One inference. in_uv: the second plane of nv12_separate. */
static int compute(const Model *m, char *const *in, char *const *in_uv, char *const *out) {
  int bad = faulty(m);
  note(m, "begin\n");
  if (bad && m->crash) {
    fprintf(stderr, "[bpusim] the driver is about to fail\n");
    raise(SIGSEGV);
  }
  if (bad && m->sleep_ms) { struct timespec ts = {m->sleep_ms / 1000, (m->sleep_ms % 1000) * 1000000L}; nanosleep(&ts, NULL); }
  if (m->socket) { int code = ask_helper(m, in[0], out[0]); note(m, "end\n"); return code; }
  double sums[5] = {0};
  int64_t j = 0;
  for (int i = 0; i < m->nin; i++) {
    const Port *p = &m->in[i];
    int64_t n = count_of(p), y_n = n * 2 / 3;
    for (int64_t k = 0; k < n; k++, j++) {
      double x = p->type == T_NV12S ? (uint8_t)(k < y_n ? in[i][k] : in_uv[i][k - y_n]) : get(in[i] + offset_of(p, k), p->type);
      for (int s = 0; s < 5; s++) sums[s] += x * (double)(((j % 97) * s) % 5 - 2);
    }
    check_tail(in[i], "infer input");
  }
  for (int o = 0; o < m->nout; o++) {
    const Port *p = &m->out[o];
    int64_t n = count_of(p), es = type_size(p->type);
    for (int64_t k = 0; k < p->bytes / es; k++) put(out[o] + k * es, p->type, es == 1 ? 127 : -999);
    for (int64_t k = 0; k < n; k++) put(out[o] + offset_of(p, k), p->type, 100.0 * o + k / 2.0 + sums[(k + 1) % 5]);
    if (bad && m->nan) put(out[o], p->type, strtod("nan", NULL));
    check_tail(out[o], "infer output");
  }
  note(m, "end\n");
  return 0;
}
