// Package fork starts programs from this process, many threads and all, by way of a fork that carries out system calls before it becomes
// the program: what is to be different from this process, and only a process can do for itself.
//
// A fork of such a process has one thread, and no Go may run in it: the runtime's other threads, its locks and its memory are as the moment
// of the fork left them. So everything that it does is a list of system calls, a Plan. A call is a number and its arguments. What they
// point to lies, as the list does, in a piece of memory that the fork shares with this process.
//
//	        Start                  Hold is reached          Proceed            the last call
//	(plan) -------> carrying out ------------------> held ----------> carrying out ------------> the program
//	                     |                             |                   |
//	                     +-----------------------------+-------------------+--> gone: a call failed, or it was killed
//
// It has nothing of this process's memory but code, the list and the stack's last page or two, closes its copies of this process's
// descriptors before anything else, and has no signal handlers. A call that fails ends it, and Await says which call that was.
package fork
