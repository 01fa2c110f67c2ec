// Package rootfs makes the file system that a container's processes see: its root directory, what its specification mounts there, device
// nodes, and what is hidden or kept from being written.
//
// A Plan says all of it; New makes one of a specification and refuses what it does not know. A thread that has a mount namespace of its own
// carries it out:
//
//	    Enter             Mount             Finish             Pivot
//	(thread) ----> root bound ----> all mounted ----> as the container sees it ----> it is the thread's root
//
// Whatever is mounted is made first and attached afterwards, by a descriptor of the place in the container's root. The place is looked for
// inside the root, links included: it never leads out of it, whatever the image, or another container that shares a volume, puts there.
package rootfs
