// Package shim is the face of limpet that containerd sees: the verbs of the shim binary, the task service, its events and the standard
// streams. It knows containerd's API and nothing of virtual machines; those are behind Runtime.
//
// # The process
//
//	containerd ── start ──▶ containerd-shim-limpet-v2 start ── forks ──▶ containerd-shim-limpet-v2 serve
//	           ◀─ address ─         (exits)                                  │ one per sandbox, own session, cwd = bundle
//	           ◀──────────────────── ttrpc over the socket ─────────────────▶│
//	           ── delete ─▶ containerd-shim-limpet-v2 delete ── ends it, if it still lives, and what it left
//
// Where the service `limpet pool` runs, start hands the socket over to a process that it keeps, instead of forking one (see package pool):
//
//	limpet pool ── forks ──▶ containerd-shim-limpet-v2 spare ── taken by start ──▶ as serve, with a machine that has started
//
// # The sandbox of a server
//
//	          first Create           Shutdown without tasks, SIGTERM
//	┌──────┐ ─────────────▶ ┌────┐ ──────────────────────────────────▶ ┌─────────┐     ┌──────┐
//	│ none │                │ up │                                     │ closing │ ──▶ │ gone │ the process exits
//	└──────┘ ◀───────────── └────┘                                     └─────────┘     └──────┘
//	          it failed                 no Create is accepted from here on ▲
//
// The first Create makes a sandbox for a container, or for a pod by its pause container. CreateSandbox of the sandbox service in its place
// makes a pod without one; it is then ShutdownSandbox that ends the sandbox, with its tasks. The server of a sandbox whose first container
// is deleted before the others ends with the last of them.
//
// # A process of a task: the init process, or an exec
//
//	┌─────────┐ Start ┌──────────┐ started ┌─────────┐ its exit ┌─────────┐
//	│ created │ ────▶ │ starting │ ──────▶ │ running │ ───────▶ │ stopped │
//	└──┬──────┘       └─────┬────┘         └─────────┘          └─────▲───┘
//	   │                    └───────── Start failed ──────────────────┤
//	   └────────── killed, deleted, or its VM lost, before Start ─────┘
//
// The loss of the VM before the start is awaited by a goroutine that ends with the start. The exit of a process that runs is awaited
// by another one, which begins after the start event is queued: so no exit can be published before its start. An exec's exit is
// published before the exit of its container's init process, because the watcher of the init process waits for the others. Delete
// waits for the watcher, so that the delete event is last.
package shim
