// Package pool keeps spare shim servers, each with a machine that waits (runtime.Spare), and hands them over to who would start a server of
// his own otherwise: the shim's verb start.
//
// A spare is a process. The pool's service (Keep) starts it and is told on its standard output what becomes of it; it ends when its standard
// input does, which is when the service has ended, however that came. Once taken it is the service's no more.
//
//	          its machine      an asker's request       "go"           it is the asker's
//	          is parked        fits                                    in all that is inherited
//	┌────────┐        ┌───────┐              ┌─────────┐    ┌────────┐              ┌───────┐
//	│ making │ ─────▶ │ ready │ ───────────▶ │ offered │ ─▶ │ taking │ ───────────▶ │ taken │ a sandbox's server
//	└───┬────┘        └─┬─▲─┬─┘              └────┬────┘    └───┬────┘              └───────┘
//	    │               │ └─┼─── the asker hangs up, or says nothing for a second
//	    │ fails         │   │                      │            │ a step fails
//	    ▼               │   │ does not fit: refused, and it    ▼
//	  ended ◀───────────┴───┴─ ends if it is out of date ──▶ ended
//	         signal, its machine's end, the service's end
//
// The handing over is a conversation of packets on a unix socket in the pool's directory, which is root's alone:
//
//	asker                                   spare
//	request, with the listening socket ──▶
//	                                   ◀──  answer: ready, or why it is refused     within offerTimeout, else the asker hangs up
//	go                                 ──▶
//	                                   ◀──  answer: taken, with its process         within takeTimeout, else the asker kills it
//
// A spare speaks with one asker at a time. Until "go" an asker that hangs up has changed nothing; from then on the spare is his alone, so
// that he can kill one that does not come along. Whoever gets none starts a server of his own: the pool is never a reason for a start to
// fail.
package pool

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"path/filepath"

	"github.com/limpet-run/limpet/runtime/config"
)

// dirName is the pool's directory in the state directory.
const dirName = "pool"

// Dir is where the spares of a state directory (config.Config.StateDir) listen.
func Dir(stateDir string) string { return filepath.Join(stateDir, dirName) }

// Digest tells configurations apart.
func Digest(configuration config.Config) (string, error) {
	text, err := json.Marshal(configuration)
	if err != nil {
		return "", fmt.Errorf("digest the configuration: %w", err)
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:]), nil
}
