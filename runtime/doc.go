// Package runtime is the sandbox on the host. It turns OCI bundles into a virtual machine, what the machine sees of the host, and
// messages to the agent inside.
//
// A sandbox is one machine with its agent; containers live in it. Its states:
//
//	creating ──▶ running ──Stop──▶ stopping ──▶ stopped
//	    │           │ VM lost        ▲   │ a step could not be undone; Stop tries again
//	    └──────▶ failed ───Stop──────┘   │
//	               ▲─────────────────────┘
//
// A spare is a sandbox whose machine is there before it is known what for. When it has run and removed a container, it is parked:
//
//	creating ──▶ running ──▶ parked ──a sandbox takes it──▶ creating ──▶ running, as above
//	    │           │          │ │ VM lost
//	    └───────────┴──▶ failed ◀┘ └──Stop: not taken, or it does not fit──▶ stopping ──▶ gone
//
// A container has a root file system and mounts in the sandbox's file share, an anchor (see package anchor), and processes:
//
//	creating ──▶ active ◀─Pause, Resume─▶ paused
//	              │  ▲ a step could not be undone     │ the init process has ended
//	       Delete ▼  │ Delete tries again             │
//	             deleting ◀────────Delete─────────────┘
//	              └──▶ deleted
//
// A process is a container's first (init) or an exec:
//
//	created ─Start─▶ starting ──▶ running ──exit──▶ stopped ─Delete─▶ deleted
//	   │ │               └──could not start──────────▲ ▲                 ▲
//	   │ └──VM lost, or its anchor killed──────────────┘                 │
//	   └──Delete─────────────────────────────────────────────────────────┘
//
// The machine's size follows what its containers' limits come to (see frame.size): it grows before a limit is raised, and shrinks after
// one is lowered or gone.
//
// A sandbox is lone, or a pod's. The network of a lone one is that of its first container's network namespace, as it is when that container
// starts. A pod is known before its machine is made, from its pause container's configuration or from CRI's: its anchor is in the pod's
// network namespace, the cards of its network are plugged before the machine runs, and the machine starts with what is known of the
// containers' demands. Nothing of it runs in the guest but what holds its namespaces there. It is a pause container where there is one:
//
//	created ─Start─▶ running ──Kill, VM lost, or its anchor killed──▶ stopped ─Delete─▶ deleted
//	   └──────────────Kill, VM lost, or its anchor killed─────────────────▲
//
// The sandbox outlives it: its containers go on.
//
// Sandboxes whose machines are started at the same time take turns, over all processes of the host (see turns).
//
// What holds throughout:
//   - A process that started ends exactly once: with what the agent says, or with 255, "vm lost", if the machine ends first.
//   - A machine whose agent can never be reached again is ended.
//   - A container's init is the last of its processes to end.
//   - No lock is held over a call that can wait. What waits for the guest has a deadline, and nothing on the host waits for the
//     guest's consent to be removed.
//   - A step that changes the host registers what takes it back before the next step begins, and is written to the state
//     directory before it is relied on, so that Cleanup can end what a killed shim left.
package runtime
