/* scarce.h: a machine without memory for what is of a certain size. */
#define _GNU_SOURCE /* as the sources have it, before they include anything */
#include <stdlib.h>

static inline void *scarce_malloc(size_t size)
{
	return size > 2000 && size < 4000 ? NULL : malloc(size);
}

#define malloc scarce_malloc
