/* gate.c: stands before the end of the reading of a parent (holder.c), so that a test can have
 * something happen meanwhile. Linked with --wrap=newborn_cwd. */
#include "fastpath.h"

#include <unistd.h>

int reached = -1, opened = -1; /* descriptors: one byte is written, and one is waited for */

bool __real_newborn_cwd(struct newborn *one);

bool __wrap_newborn_cwd(struct newborn *one)
{
	char byte = 0;

	if (reached >= 0 && (write(reached, &byte, 1) != 1 || read(opened, &byte, 1) != 1))
		return false;
	return __real_newborn_cwd(one);
}
