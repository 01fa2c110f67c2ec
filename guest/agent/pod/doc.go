// Package pod makes the namespaces that the containers of a pod share.
//
// A namespace is there as long as a process is in it, and containers come and go. So a pod has a holder, which does nothing else: this
// program, started again in new IPC, UTS, PID and mount namespaces, and in a user namespace if the pod's users are mapped.
//
//	             Start              it has settled                killed, or a fault
//	(none) ------------> settling ------------------> holding ------------------------> gone
//	                        |
//	                        +-> (none): it could not
//
// It settles by giving the UTS namespace its name and the IPC namespace its parameters, from the inside: in a user namespace nobody else
// may. Then it leaves the guest's files behind for a root directory with nothing in it, since the pod's containers can see it where they
// share the PID namespace.
//
// There it is PID 1: it takes in the orphans of all containers, which the kernel reaps because it ignores their signal, as every
// other. It ends with the machine. Should somebody kill it, the kernel kills what is in the pod's PID namespace, and no container
// can join the pod any more.
package pod
