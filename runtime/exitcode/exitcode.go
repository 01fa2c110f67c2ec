// Package exitcode has the exit codes of limpet's commands that are not those of what they run, as shells and container tools have them.
package exitcode

// The codes.
const (
	Timeout       = 124 // the command was killed because its time was over
	Failure       = 125 // limpet failed, or what should have run the command could not be reached
	NotExecutable = 126 // or it could not be started for another reason
	NotFound      = 127
	Signal        = 128 // and the number of the signal that killed it
)
