/* gate.c: stands before the end of the reading of a process (holder.c), so that a test can have
 * something happen meanwhile. Linked with --wrap=newborn_read and --wrap=newborn_cwd. */
#include "fastpath.h"

#include <unistd.h>

int reached = -1, opened = -1; /* descriptors: one byte is written, and one is waited for */
int parents;		       /* whether it stands where parents are read, else where all are */

bool __real_newborn_read(struct newborn *one);
bool __real_newborn_cwd(struct newborn *one);

static bool pass(void)
{
	char byte = 0;

	return reached < 0 || (write(reached, &byte, 1) == 1 && read(opened, &byte, 1) == 1);
}

bool __wrap_newborn_read(struct newborn *one)
{
	return (parents || pass()) && __real_newborn_read(one);
}

bool __wrap_newborn_cwd(struct newborn *one)
{
	return (!parents || pass()) && __real_newborn_cwd(one);
}
