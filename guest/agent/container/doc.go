// Package container is the guest's containers: how they are prepared, run, looked at and removed, and how the standard streams of
// their processes are joined to byte streams of the host.
//
// # A container
//
//	              Prepare          Run               init ends          Remove
//	(unknown) ------------> prepared ----> starting ----> running ------------> stopped ----> (unknown)
//	                          ^  |             |          ^     |                  ^
//	                          |  | Remove      | fails    |     | Pause            | init is killed
//	                          |  v             |   Resume |     v                  |
//	                          | (unknown)      |          +-- paused --------------+
//	                          +----------------+
//
// Prepare takes a moment, in which the container is being prepared: a Remove that comes meanwhile waits.
// A failed start leaves nothing behind but the prepared container. Exec is for running containers only.
//
// # A process
//
//	reserved ----> started ----> ended ----> reported
//	    |
//	    +-> (unknown): it could not be started
//
// What is said of a process is in this order: its Started, then its stream ends and out-of-memory events, then its Exit, once. The Exit
// waits until the output has been read to its end, at most drainTimeout after the process's death: what the process left behind may hold
// the pipe for ever, and the host may read slowly or not at all. Of a container's exits the init's is the last.
//
// # A command
//
// A program in the machine itself (Command) is a container without a container: one process among the agent's own namespaces and files,
// with an id, a control group and streams like an init's. It is running from the start on; what it leaves running at its end goes on, and
// its control group is removed when that has ended, too.
//
// # Starting a process
//
// An ordinary container is made by the agent itself (native): a thread goes into new namespaces, makes the container's file system (package
// rootfs), and forks (package fork). The fork carries out what only the process itself can do, and becomes the program:
//
//	thread    namespaces, root bound ------> mounts, devices, masks, names, pivot --------> ends
//	                                 |              ^                                |
//	process                          +--> proc, waits                                +--> limits, user, capabilities, session, program
//
// The process mounts its proc because only a process of the PID namespace can; it can be the first of it only by a fork.
//
// An exec is a fork of a thread in the container's namespaces. A PID namespace has others in it, who may look at the process
// (ptrace(2)). So the fork joins the namespace, becomes what the process is to be, loses its memory, and then divides: what comes to be
// among the others has nothing that is not the container's. The same goes for the first process of a container that is in the PID
// namespace of a pod, but for its privileges, which it gives up only when its container is made.
//
// What native does not do (canNative), such as user namespaces and the hooks of the guest, is done by crun, an OCI runtime, a program of
// the guest image. It knows only of the containers that it has started. Limits, signals, the end: all else is the same for both.
//
// In an emulated guest what runs for the first time is dear. So a start is rehearsed before there is a container (Rehearse).
//
// # Namespaces
//
// A container has namespaces of its own, or those of the pod (package pod) or of another container that runs, where its specification has
// the word for them instead of a path. In a PID namespace that is not its own its init is no PID 1: what it leaves behind is ended by the
// container's control group, as it is in any case.
//
// # Standard streams
//
// A pipe and a pump per stream, or a pseudo-terminal and two pumps. Output is never closed by the guest first: a vsock backend may lose
// what it still buffers then. Its end is announced (StreamEnd), with its length, and the host closes after it has read that much. Input
// ends where its stream ends.
package container
