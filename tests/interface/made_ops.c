/* A library of custom operators in the domain "made": Up doubles its input, Down ends the process.
 *
 * onnxruntime's wheel has no headers, but its C interface is a table of functions whose places never change: those of
 * its version 1 are named here by their numbers. At the library's loading, the environment's MADE_OPS says what to do.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    CREATE_DOMAIN = 26, ADD_OPERATOR = 27, ADD_DOMAIN = 28, GET_DATA = 51, GET_RANK = 61, GET_DIMS = 62, GET_COUNT = 64,
    GET_INFO = 65, GET_INPUT = 90, GET_OUTPUT = 91, RELEASE_INFO = 99
};
enum { FLOAT = 1 };

typedef void *(*Function)(void *, ...);
typedef struct {
    const void *(*get)(uint32_t version);
} Base;
typedef struct {
    uint32_t version;
    void *functions[64]; /* version 1 has nine; of the later ones onnxruntime asks for the first three all the same */
} Operator;

static Function const *api;

static void *created(const Operator *self, const void *given, const void *info) {
    (void)given, (void)info;
    return (void *)self;
}
static const char *up(const Operator *self) { return (void)self, "Up"; }
static const char *down(const Operator *self) { return (void)self, "Down"; }
static const char *anywhere(const Operator *self) { return (void)self, (const char *)0; }
static int type(const Operator *self, size_t index) { return (void)self, (void)index, FLOAT; }
static size_t one(const Operator *self) { return (void)self, (size_t)1; }
static int usual(const Operator *self, size_t index) { return (void)self, (void)index, 0; }
static void destroyed(void *kernel) { (void)kernel; }

static void doubled(void *kernel, void *context) {
    void *input, *output, *info;
    float *from, *to;
    size_t rank, count;
    int64_t dims[16];
    (void)kernel;
    ((void *(*)(void *, size_t, void **))api[GET_INPUT])(context, 0, &input);
    ((void *(*)(void *, void **))api[GET_INFO])(input, &info);
    ((void *(*)(void *, size_t *))api[GET_RANK])(info, &rank);
    ((void *(*)(void *, int64_t *, size_t))api[GET_DIMS])(info, dims, rank);
    ((void *(*)(void *, size_t *))api[GET_COUNT])(info, &count);
    ((void *(*)(void *))api[RELEASE_INFO])(info);
    ((void *(*)(void *, size_t, int64_t *, size_t, void **))api[GET_OUTPUT])(context, 0, dims, rank, &output);
    ((void *(*)(void *, float **))api[GET_DATA])(input, &from);
    ((void *(*)(void *, float **))api[GET_DATA])(output, &to);
    for (size_t i = 0; i < count; i++) to[i] = 2 * from[i];
}

static void aborted(void *kernel, void *context) {
    (void)kernel, (void)context;
    abort();
}

#define OPERATOR(name, compute) \
    { 1, { (void *)created, (void *)name, (void *)anywhere, (void *)type, (void *)one, (void *)type, (void *)one, \
           (void *)compute, (void *)destroyed, (void *)usual, (void *)usual, (void *)usual } }
static Operator operators[] = { OPERATOR(up, doubled), OPERATOR(down, aborted) };

void *RegisterCustomOps(void *options, const Base *base) {
    const char *wish = getenv("MADE_OPS");
    void *domain;
    if (wish && !strcmp(wish, "abort")) abort();
    if (wish && !strcmp(wish, "hang")) for (volatile int i = 0;; i++) { }
    if (wish && !strcmp(wish, "print")) puts("words of a library"), fflush(stdout);
    api = base->get(1);
    ((void *(*)(const char *, void **))api[CREATE_DOMAIN])("made", &domain);
    for (size_t i = 0; i < sizeof operators / sizeof *operators; i++)
        ((void *(*)(void *, Operator *))api[ADD_OPERATOR])(domain, &operators[i]);
    return ((void *(*)(void *, void *))api[ADD_DOMAIN])(options, domain);
}
