/* module.c: the fast path for Python: arbiter.kernel._fastpath.FastPath (its .pyi says what). */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "fastpath.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

typedef struct {
	PyObject_HEAD
	struct fastpath path;
} FastPath;

static PyObject *make(PyTypeObject *type, PyObject *args, PyObject *names)
{
	static char *keys[] = { "netlink", "queue", "diag", "events", "births", "wake", "stop", NULL };
	int netlink, queue, diag, events, births, wake, stop;
	FastPath *self;

	if (!PyArg_ParseTupleAndKeywords(args, names, "iiiiiii", keys, &netlink, &queue, &diag, &events,
					 &births, &wake, &stop))
		return NULL;
	self = (FastPath *)type->tp_alloc(type, 0);
	if (self == NULL)
		return NULL;
	self->path.netlink = netlink;
	self->path.queue = queue;
	self->path.diag = diag;
	self->path.events.socket = events;
	self->path.births.socket = births;
	self->path.wake = wake;
	self->path.stop = stop;
	fastpath_begin(&self->path);
	return (PyObject *)self;
}

static void unmake(FastPath *self)
{
	PyTypeObject *type = Py_TYPE(self);

	fastpath_end(&self->path);
	type->tp_free(self);
	Py_DECREF(type);
}

static PyObject *run(FastPath *self, PyObject *none)
{
	int problem;

	Py_BEGIN_ALLOW_THREADS
	problem = fastpath_run(&self->path);
	Py_END_ALLOW_THREADS
	if (problem) {
		errno = problem;
		return PyErr_SetFromErrno(PyExc_OSError);
	}
	Py_RETURN_NONE;
}

static PyObject *mark(FastPath *self, PyObject *none)
{
	uint64_t value;

	Py_BEGIN_ALLOW_THREADS
	value = fastpath_mark(&self->path);
	Py_END_ALLOW_THREADS
	return PyLong_FromUnsignedLongLong(value);
}

static PyObject *forget(FastPath *self, PyObject *none)
{
	Py_BEGIN_ALLOW_THREADS
	fastpath_forget(&self->path);
	Py_END_ALLOW_THREADS
	Py_RETURN_NONE;
}

/* A packed address of the question's family; false with an exception. */
static bool address(const Py_buffer *from, uint8_t family, uint8_t *to)
{
	if (from->len != (family == AF_INET ? 4 : 16)) {
		PyErr_SetString(PyExc_ValueError, "an address has 4 or 16 bytes, both of a flow as many");
		return false;
	}
	memcpy(to, from->buf, from->len);
	return true;
}

/* A packed address, as in a question; false with an exception. */
static bool any_address(const Py_buffer *from, uint8_t *to)
{
	if (from->len != 4 && from->len != 16) {
		PyErr_SetString(PyExc_ValueError, "an address has 4 or 16 bytes");
		return false;
	}
	memcpy(to, from->buf, from->len);
	return true;
}

static PyObject *leave_out(FastPath *self, PyObject *args)
{
	uint8_t address[16] = { 0 };
	Py_buffer packed;
	int bits = 128, width;
	bool excepted;

	if (!PyArg_ParseTuple(args, "y*|i", &packed, &bits))
		return NULL;
	width = packed.len == 4 ? 32 : 128;
	excepted = any_address(&packed, address);
	PyBuffer_Release(&packed);
	if (!excepted)
		return NULL;
	if (bits < 0 || (bits > width && bits != 128)) {
		PyErr_Format(PyExc_ValueError, "an area has 0 to %d bits", width);
		return NULL;
	}
	if (bits == width)
		bits = 128;
	Py_BEGIN_ALLOW_THREADS
	excepted = fastpath_except(&self->path, address, bits);
	Py_END_ALLOW_THREADS
	return PyBool_FromLong(excepted);
}

static PyObject *left_out(FastPath *self, PyObject *args)
{
	uint8_t address[16] = { 0 };
	Py_buffer packed;
	bool excepted;

	if (!PyArg_ParseTuple(args, "y*", &packed))
		return NULL;
	excepted = any_address(&packed, address);
	PyBuffer_Release(&packed);
	if (!excepted)
		return NULL;
	Py_BEGIN_ALLOW_THREADS
	excepted = fastpath_excepted(&self->path, address);
	Py_END_ALLOW_THREADS
	return PyBool_FromLong(excepted);
}

static PyObject *teach(FastPath *self, PyObject *args)
{
	unsigned long long mark, device, file, token, until;
	unsigned int proto, dport, outdev, packet_mark, uid, verdict_mark, euid;
	Py_buffer saddr, daddr;
	const char *image;
	PyObject *relatives;
	int pid, descriptor;
	bool taught = false, good;
	struct answer answer;
	struct process process;
	struct program program;
	const char *exe;
	int only;

	memset(&answer, 0, sizeof answer);
	memset(&process, 0, sizeof process);
	memset(&program, 0, sizeof program);
	process.directory = process.table = -1;
	if (!PyArg_ParseTuple(args, "K(Iy*y*III)(iIKKsiO!yi)IIKK", &mark, &proto, &saddr, &daddr, &dport,
			      &outdev, &packet_mark, &pid, &euid, &device, &file, &image, &descriptor,
			      &PyTuple_Type, &relatives, &exe, &only, &uid, &verdict_mark, &token, &until))
		return NULL;
	answer.question.family = daddr.len == 4 ? AF_INET : AF_INET6;
	answer.question.proto = proto;
	answer.question.dport = htons(dport);
	answer.question.outdev = outdev;
	answer.question.mark = packet_mark;
	answer.uid = uid;
	answer.mark = verdict_mark;
	answer.token = token;
	answer.until = until;
	good = address(&saddr, answer.question.family, answer.question.saddr) &&
	       address(&daddr, answer.question.family, answer.question.daddr);
	PyBuffer_Release(&saddr);
	PyBuffer_Release(&daddr);
	if (!good)
		return NULL;
	process.pid = pid;
	process.uid = euid;
	process.device = device;
	process.file = file;
	process.relative_count = PyTuple_GET_SIZE(relatives);
	if (process.relative_count > RELATIVES || strlen(image) >= IMAGE || token == 0 || pid <= 0)
		Py_RETURN_FALSE;
	strcpy(process.image, image);
	for (int i = 0; i < process.relative_count; i++)
		process.relatives[i] = PyLong_AsLong(PyTuple_GET_ITEM(relatives, i));
	if (PyErr_Occurred())
		return NULL;
	if (descriptor >= 0)
		process.descriptors[process.descriptor_count++] = descriptor;
	program.facts.uid = euid;
	program.facts.device = device;
	program.facts.file = file;
	program.only = only;
	if (strlen(exe) < sizeof program.facts.path)
		strcpy(program.facts.path, exe);
	memcpy(program.descriptors, process.descriptors, sizeof program.descriptors);
	program.descriptor_count = process.descriptor_count;
	Py_BEGIN_ALLOW_THREADS
	taught = fastpath_teach(&self->path, mark, &answer, &process,
				program.facts.path[0] ? &program : NULL);
	Py_END_ALLOW_THREADS
	return PyBool_FromLong(taught);
}

/* A parent as `_Elder` of the .pyi; None for none. */
static PyObject *elder_of(void *of)
{
	const struct newborn *one = of;

	if (one == NULL)
		Py_RETURN_NONE;
	return Py_BuildValue("iiKyyyy#y", (int)one->pid, (int)one->parent, (unsigned long long)one->start,
			     one->facts.path, one->facts.mounts, one->facts.cgroup, one->argv,
			     (Py_ssize_t)one->argv_size, one->cwd);
}

static PyObject *take(FastPath *self, PyObject *waiting)
{
	const bool all = waiting == Py_True;
	struct message *message;
	PyObject *taken;

	Py_BEGIN_ALLOW_THREADS
	message = fastpath_take(&self->path, all);
	Py_END_ALLOW_THREADS
	if (message == NULL)
		Py_RETURN_NONE;
	taken = Py_BuildValue("y#KIKKiiOO&Ky#", message->data, (Py_ssize_t)message->size,
			      (unsigned long long)message->token, message->inode,
			      (unsigned long long)message->came, (unsigned long long)message->answered,
			      (int)message->pid, (int)message->parent, message->known ? Py_True : Py_False, elder_of, message->elder,
			      (unsigned long long)message->start,
			      message->argv ? message->argv : "", (Py_ssize_t)message->argv_size);
	message_free(message);
	return taken;
}

static PyObject *losses(FastPath *self, PyObject *none)
{
	uint64_t overruns, lost;

	Py_BEGIN_ALLOW_THREADS
	fastpath_losses(&self->path, &overruns, &lost);
	Py_END_ALLOW_THREADS
	return Py_BuildValue("KK", (unsigned long long)overruns, (unsigned long long)lost);
}

static PyMethodDef methods[] = {
	{ "run", (PyCFunction)run, METH_NOARGS, NULL },
	{ "mark", (PyCFunction)mark, METH_NOARGS, NULL },
	{ "teach", (PyCFunction)teach, METH_VARARGS, NULL },
	{ "forget", (PyCFunction)forget, METH_NOARGS, NULL },
	{ "leave_out", (PyCFunction)leave_out, METH_VARARGS, NULL },
	{ "left_out", (PyCFunction)left_out, METH_VARARGS, NULL },
	{ "take", (PyCFunction)take, METH_O, NULL },
	{ "losses", (PyCFunction)losses, METH_NOARGS, NULL },
	{ NULL, NULL, 0, NULL },
};

static PyType_Slot slots[] = {
	{ Py_tp_new, make },
	{ Py_tp_dealloc, unmake },
	{ Py_tp_methods, methods },
	{ 0, NULL },
};

static PyType_Spec spec = {
	.name = "arbiter.kernel._fastpath.FastPath",
	.basicsize = sizeof(FastPath),
	.flags = Py_TPFLAGS_DEFAULT,
	.slots = slots,
};

static int fill(PyObject *module)
{
	PyObject *type = PyType_FromSpec(&spec);
	int result = type == NULL ? -1 : PyModule_AddObjectRef(module, "FastPath", type);

	Py_XDECREF(type);
	return result;
}

static PyModuleDef_Slot module_slots[] = {
	{ Py_mod_exec, fill },
	{ 0, NULL },
};

static PyModuleDef module = {
	PyModuleDef_HEAD_INIT,
	.m_name = "arbiter.kernel._fastpath",
	.m_slots = module_slots,
};

PyMODINIT_FUNC PyInit__fastpath(void)
{
	return PyModuleDef_Init(&module);
}
