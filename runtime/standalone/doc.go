// Package standalone runs a command in a microVM without a containerd: what `limpet run` does.
//
// A run is one sandbox with one container, both named like the run. Who holds it is the process that called Start: `limpet run` itself, or,
// for one that goes on in the background, its supervisor. Its states:
//
//	starting ──▶ running ──command ended, or killed──▶ ended ─Close─▶ closed
//	   └──failed, or interrupted: all is undone──────────────────────────▲
//
// A run has a place: a directory beside the sandbox's state directory, which is the container's bundle and has in it what is known of the
// run. Its holder has it locked as long as it lives. A place that nobody holds is either of a run that has ended, and tells how and what it
// wrote until it is removed, or left of a holder that was killed: then Sweep takes back what that one had made.
package standalone
